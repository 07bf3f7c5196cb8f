//! Writes GGUF files: well-formed ones for benchmarks, and ones that are wrong in exactly one place for
//! tests.

/// One metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// A value type number and the bytes that follow it.
    Raw(u32, Vec<u8>),
}

/// One tensor; the writer chooses the offset unless `offset` is set.
#[derive(Clone)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) type_number: u32,
    pub(crate) data: Vec<u8>,
    pub(crate) offset: Option<u64>,
}

/// A file to be written.
#[derive(Clone)]
pub(crate) struct GgufWriter {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<TensorSpec>,
    /// Set to write counts that do not match.
    pub(crate) metadata_count: Option<u64>,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) alignment: u64,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            metadata: Vec::new(),
            tensors: Vec::new(),
            metadata_count: None,
            tensor_count: None,
            alignment: 32,
        }
    }
}

impl GgufWriter {
    pub(crate) fn meta(mut self, key: &str, value: Meta) -> Self {
        self.metadata.push((key.into(), value));
        self
    }

    pub(crate) fn tensor(mut self, name: &str, dimensions: &[u64], type_number: u32, data: Vec<u8>) -> Self {
        self.tensors.push(TensorSpec {
            name: name.into(),
            dimensions: dimensions.into(),
            type_number,
            data,
            offset: None,
        });
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.metadata_count.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            string(&mut out, key);
            value_bytes(&mut out, value);
        }
        let mut next = 0;
        let mut placed = Vec::new();
        for tensor in &self.tensors {
            let offset = tensor.offset.unwrap_or(next);
            next = offset.saturating_add(tensor.data.len() as u64 + self.alignment - 1) / self.alignment
                * self.alignment;
            string(&mut out, &tensor.name);
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|dimension| out.extend(dimension.to_le_bytes()));
            out.extend(tensor.type_number.to_le_bytes());
            out.extend(offset.to_le_bytes());
            placed.push((offset, &tensor.data));
        }
        pad(&mut out, self.alignment);
        let start = out.len();
        for (offset, data) in placed {
            // Offsets that were forced out of order are only described, never written.
            if offset == (out.len() - start) as u64 {
                out.extend(data);
                pad(&mut out, self.alignment);
            }
        }
        out
    }
}

fn pad(out: &mut Vec<u8>, alignment: u64) {
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value_bytes(out: &mut Vec<u8>, value: &Meta) {
    let mut head = |number: u32| out.extend(number.to_le_bytes());
    match value {
        Meta::U32(number) => {
            head(4);
            out.extend(number.to_le_bytes());
        }
        Meta::F32(number) => {
            head(6);
            out.extend(number.to_le_bytes());
        }
        Meta::Bool(flag) => {
            head(7);
            out.push(u8::from(*flag));
        }
        Meta::Str(text) => {
            head(8);
            string(out, text);
        }
        Meta::Strs(texts) => {
            head(9);
            out.extend(8_u32.to_le_bytes());
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| string(out, text));
        }
        Meta::I32s(numbers) => {
            head(9);
            out.extend(5_u32.to_le_bytes());
            out.extend((numbers.len() as u64).to_le_bytes());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Meta::F32s(numbers) => {
            head(9);
            out.extend(6_u32.to_le_bytes());
            out.extend((numbers.len() as u64).to_le_bytes());
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Meta::Raw(number, bytes) => {
            head(*number);
            out.extend(bytes);
        }
    }
}
