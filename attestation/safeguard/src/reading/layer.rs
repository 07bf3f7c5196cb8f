//! The text itself, and the texts that are hidden in it.

use crate::judge::{Judge, Progress};
use crate::policy::Sight;
use crate::reading::decode::{Base64, Escapes, Hexadecimal};
use crate::reading::fold::{decompose, fold};
use crate::reading::streams::{Found, Streams, is_letter};

/// Encodings are looked for in the text, and once more in what was hidden in it.
const DEEPEST: u8 = 2;
/// The most layers of one exchange: the text, what three encodings hide in it, and what three hide in each of
/// those.
pub(crate) const MAX_LAYERS: usize = 1 + 3 + 9;

/// A text: the exchange's own, or one that was hidden in another layer.
pub(crate) struct Layer {
    depth: u8,
    /// The layer's place among all of one exchange.
    number: u8,
    streams: Streams,
    progress: Progress,
    decoders: Option<Box<Decoders>>,
}

struct Decoders {
    base64: (Base64, Option<Box<Layer>>),
    hexadecimal: (Hexadecimal, Option<Box<Layer>>),
    escapes: (Escapes, Option<Box<Layer>>),
}

/// Notes what the streams of one layer find.
struct Finder<'a, 'judge> {
    judge: &'a mut Judge<'judge>,
    progress: &'a mut Progress,
    layer: u8,
}

impl Found for Finder<'_, '_> {
    fn found(&mut self, needle: usize, sight: Sight) {
        self.judge.needle(self.progress, self.layer, needle, sight);
    }
}

impl Layer {
    /// The layer of the exchange's own text.
    pub(crate) fn outer(judge: &Judge<'_>) -> Self {
        Self::new(judge, 0, 0)
    }

    /// The bytes of one layer, without what depends on the policy.
    pub(crate) const fn bytes() -> usize {
        size_of::<Self>() + size_of::<Decoders>()
    }

    fn new(judge: &Judge<'_>, depth: u8, number: u8) -> Self {
        let decoders = (depth < DEEPEST).then(|| {
            Box::new(Decoders {
                base64: (Base64::default(), None),
                hexadecimal: (Hexadecimal::default(), None),
                escapes: (Escapes::default(), None),
            })
        });
        Self {
            depth,
            number,
            streams: Streams::new(judge.compiled),
            progress: Progress::new(judge.compiled),
            decoders,
        }
    }

    /// Reads one character.
    pub(crate) fn push(&mut self, judge: &mut Judge<'_>, character: char) {
        decompose(character, |part| {
            self.decode(judge, part);
            fold(part, |folded| self.read(judge, folded));
        });
    }

    /// Ends the words, finds what ends with them, and ends what is hidden. The text may go on afterwards.
    pub(crate) fn settle(&mut self, judge: &mut Judge<'_>) {
        let compiled = judge.compiled;
        let mut finder = Finder { judge, progress: &mut self.progress, layer: self.number };
        self.streams.settle(compiled, &mut finder);
        let (depth, number) = (self.depth, self.number);
        let Some(decoders) = &mut self.decoders else { return };
        let Decoders { base64, hexadecimal, escapes } = &mut **decoders;
        base64.0.end(&mut |hidden| read_hidden(judge, &mut base64.1, depth, number, 1, hidden));
        hexadecimal.0.end(&mut |hidden| read_hidden(judge, &mut hexadecimal.1, depth, number, 2, hidden));
        escapes.0.end(&mut |hidden| read_hidden(judge, &mut escapes.1, depth, number, 3, hidden));
        for layer in [&mut base64.1, &mut hexadecimal.1, &mut escapes.1].into_iter().flatten() {
            layer.settle(judge);
        }
    }

    /// Begins another part of the exchange: no term reaches into it, and only rules of the whole exchange
    /// remember terms.
    pub(crate) fn begin(&mut self, judge: &Judge<'_>) {
        self.streams = Streams::new(judge.compiled);
        self.progress.begin(judge.compiled);
        let Some(decoders) = &mut self.decoders else { return };
        let Decoders { base64, hexadecimal, escapes } = &mut **decoders;
        base64.0 = Base64::default();
        hexadecimal.0 = Hexadecimal::default();
        escapes.0 = Escapes::default();
        for layer in [&mut base64.1, &mut hexadecimal.1, &mut escapes.1].into_iter().flatten() {
            layer.begin(judge);
        }
    }

    fn read(&mut self, judge: &mut Judge<'_>, folded: char) {
        let compiled = judge.compiled;
        if is_letter(folded) {
            self.progress.letters = self.progress.letters.saturating_add(1);
        }
        let mut finder = Finder { judge, progress: &mut self.progress, layer: self.number };
        self.streams.push(compiled, folded, &mut finder);
    }

    fn decode(&mut self, judge: &mut Judge<'_>, character: char) {
        let (depth, number) = (self.depth, self.number);
        let Some(decoders) = &mut self.decoders else { return };
        let Decoders { base64, hexadecimal, escapes } = &mut **decoders;
        let hidden = &mut base64.1;
        base64.0.push(character, &mut |part| read_hidden(judge, hidden, depth, number, 1, part));
        let hidden = &mut hexadecimal.1;
        hexadecimal.0.push(character, &mut |part| read_hidden(judge, hidden, depth, number, 2, part));
        let hidden = &mut escapes.1;
        escapes.0.push(character, &mut |part| read_hidden(judge, hidden, depth, number, 3, part));
    }
}

/// Reads one character that was hidden in the layer `number`, by the decoder `decoder`.
fn read_hidden(
    judge: &mut Judge<'_>,
    hidden: &mut Option<Box<Layer>>,
    depth: u8,
    number: u8,
    decoder: u8,
    character: char,
) {
    hidden
        .get_or_insert_with(|| Box::new(Layer::new(judge, depth + 1, number * 3 + decoder)))
        .push(judge, character);
}
