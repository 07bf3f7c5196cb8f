//! The template of an attestation document.

use crate::cbor::Cbor;
use crate::key::Key;
use crate::pcr;

/// What goes into a document.
#[derive(Clone)]
pub struct Document {
    /// The payload's entries in their order.
    pub fields: Vec<(Cbor, Cbor)>,
    /// Whether the payload's map has an indefinite length, as AWS writes it since 2025.
    pub open: bool,
    /// Instead of the map that [`Self::fields`] make.
    pub payload: Option<Cbor>,
    /// After the payload's map, inside the payload.
    pub payload_trailing: Vec<u8>,
    /// The protected header's bytes, which are also signed.
    pub protected: Vec<u8>,
    /// The protected header as it is written; [`Self::protected`] in a byte string when absent.
    pub protected_item: Option<Cbor>,
    /// The unprotected header.
    pub unprotected: Cbor,
    /// The payload as it is written; the signed one in a byte string when absent.
    pub payload_item: Option<Cbor>,
    /// The signature as it is written; the right one in a byte string when absent.
    pub signature: Option<Cbor>,
    /// Which of two equally valid signatures.
    pub high_s: bool,
    /// Tags around the envelope, outermost first.
    pub tags: Vec<u64>,
    /// The envelope's further parts.
    pub more_parts: Vec<Cbor>,
    /// How many of the four parts are left out at the end.
    pub fewer_parts: usize,
    /// After the envelope.
    pub trailing: Vec<u8>,
}

impl Document {
    /// A document with every field but the certificates. The registers are those of an enclave: 0 to 15, zero but for the
    /// [`pcr`]s 0, 1, 2, 3, 4 and 8.
    #[must_use]
    pub fn new(module_id: &str, timestamp_ms: u64) -> Self {
        let registers = (0..16).map(|index| {
            let value = if matches!(index, 0..=4 | 8) { pcr(index) } else { [0; 48] };
            (Cbor::Unsigned(index.into()), Cbor::bytes(&value))
        });
        let fields = [
            ("module_id", Cbor::text(module_id)),
            ("digest", Cbor::text("SHA384")),
            ("timestamp", Cbor::Unsigned(timestamp_ms)),
            ("pcrs", Cbor::Map(registers.collect())),
            ("public_key", Cbor::Null),
            ("user_data", Cbor::Null),
            ("nonce", Cbor::Null),
        ];
        Self {
            fields: fields.map(|(name, value)| (Cbor::text(name), value)).to_vec(),
            open: false,
            payload: None,
            payload_trailing: Vec::new(),
            protected: vec![0xa1, 0x01, 0x38, 0x22],
            protected_item: None,
            unprotected: Cbor::Map(Vec::new()),
            payload_item: None,
            signature: None,
            high_s: false,
            tags: Vec::new(),
            more_parts: Vec::new(),
            fewer_parts: 0,
            trailing: Vec::new(),
        }
    }

    /// Puts a field in, in the place of the one of that name.
    pub fn put(&mut self, name: &str, value: Cbor) {
        match self.field(name) {
            Some(field) => *field = value,
            None => self.fields.push((Cbor::text(name), value)),
        }
    }

    /// Puts a field in unless there is one of that name.
    pub fn put_if_absent(&mut self, name: &str, value: Cbor) {
        if self.field(name).is_none() {
            self.put(name, value);
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, name: &str) {
        self.fields.retain(|(key, _)| key.encode() != Cbor::text(name).encode());
    }

    /// Puts a register into [`Self::registers`], in the place of the one with that index.
    pub fn put_pcr(&mut self, index: u64, value: &[u8]) {
        let registers = self.registers();
        registers.retain(|(key, _)| key.encode() != Cbor::Unsigned(index).encode());
        registers.push((Cbor::Unsigned(index), Cbor::bytes(value)));
    }

    /// Takes a register out of [`Self::registers`].
    pub fn remove_pcr(&mut self, index: u64) {
        self.registers().retain(|(key, _)| key.encode() != Cbor::Unsigned(index).encode());
    }

    /// The entries of `pcrs`, or of `nitrotpm_pcrs` in a document of a `NitroTPM`.
    pub fn registers(&mut self) -> &mut Vec<(Cbor, Cbor)> {
        let name = if self.field("pcrs").is_some() { "pcrs" } else { "nitrotpm_pcrs" };
        match self.field(name) {
            Some(Cbor::Map(registers)) => registers,
            _ => unreachable!("the template has registers, unless the test took them out"),
        }
    }

    /// Makes it a document of a `NitroTPM`: 24 registers of their own field and the module id of one. Register 12 is zero, as
    /// on a machine whose image was started as it is; each other one is a [`pcr`].
    pub fn become_tpm(&mut self, module_id: &str) {
        let registers = (0..24).map(|index| {
            let value = if index == 12 { [0; 48] } else { pcr(index) };
            (Cbor::Unsigned(index.into()), Cbor::bytes(&value))
        });
        let registers = Cbor::Map(registers.collect());
        self.remove("pcrs");
        self.put("nitrotpm_pcrs", registers);
        self.put("module_id", Cbor::text(module_id));
    }

    /// The document's bytes, signed.
    #[must_use]
    pub fn sign(&self, key: &Key) -> Vec<u8> {
        let map = if self.open { Cbor::OpenMap(self.fields.clone()) } else { Cbor::Map(self.fields.clone()) };
        let payload = self.payload.clone().unwrap_or(map).encode();
        let payload = [payload, self.payload_trailing.clone()].concat();
        let signed = Cbor::Array(vec![
            Cbor::text("Signature1"),
            Cbor::bytes(&self.protected),
            Cbor::bytes(b""),
            Cbor::bytes(&payload),
        ]);
        let signature = key.sign_fixed(&signed.encode(), self.high_s);
        let mut parts = vec![
            self.protected_item.clone().unwrap_or_else(|| Cbor::bytes(&self.protected)),
            self.unprotected.clone(),
            self.payload_item.clone().unwrap_or(Cbor::Bytes(payload)),
            self.signature.clone().unwrap_or(Cbor::Bytes(signature)),
        ];
        parts.extend(self.more_parts.clone());
        parts.truncate(parts.len() - self.fewer_parts);
        let tags = self.tags.iter().rev();
        let envelope = tags.fold(Cbor::Array(parts), |item, tag| Cbor::Tag(*tag, Box::new(item)));
        [envelope.encode(), self.trailing.clone()].concat()
    }

    fn field(&mut self, name: &str) -> Option<&mut Cbor> {
        let name = Cbor::text(name).encode();
        self.fields.iter_mut().find(|(key, _)| key.encode() == name).map(|(_, value)| value)
    }
}
