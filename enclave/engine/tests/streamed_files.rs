//! A model that comes as a stream is the model of the whole file, and a stream that ends early is none.

use std::io::{self, ErrorKind, Read};

use cleanroom_engine::{Model, ModelError};

const DEMO: &[u8] = include_bytes!("../../../models/demo.gguf");

/// Gives a file a few bytes at a time, and remembers how far it was read.
struct Trickle<'a> {
    file: &'a [u8],
    read: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        let count = output.len().min(4099);
        let count = self.file[self.read..].as_ref().read(&mut output[..count])?;
        self.read += count;
        Ok(count)
    }
}

#[test]
fn a_stream_gives_the_model_of_the_file() {
    let mut file = Trickle { file: DEMO, read: 0 };
    let mut last = None;
    let model = Model::read_gguf(&mut file, DEMO.len() as u64, |progress| last = Some(progress)).unwrap();
    let last = last.unwrap();
    assert_eq!(last.done, last.total);
    let whole = Model::from_gguf(DEMO).unwrap();
    assert_eq!(model.facts().parameters, whole.facts().parameters);
    assert_eq!(model.facts().weights, whole.facts().weights);
}

#[test]
fn a_stream_that_ends_early_is_no_model() {
    for kept in [0, 10, 5000, DEMO.len() / 2, DEMO.len() - 1000] {
        let mut file = &DEMO[..kept];
        let error = Model::read_gguf(&mut file, DEMO.len() as u64, |_| {}).err().unwrap();
        assert_eq!(error, ModelError::Read(ErrorKind::UnexpectedEof), "{kept} bytes");
    }
}

#[test]
fn nothing_is_read_beyond_the_announced_length() {
    let longer = [DEMO, b"the next frame"].concat();
    let mut file = Trickle { file: &longer, read: 0 };
    Model::read_gguf(&mut file, DEMO.len() as u64, |_| {}).unwrap();
    assert!(file.read <= DEMO.len(), "{} bytes were read", file.read);
}
