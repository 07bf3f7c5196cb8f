//! What a sequence remembers: keys and values of its positions, in half precision.

use zeroize::Zeroize;

use crate::model::Hyperparameters;

/// The key-value cache of one sequence. Room for a whole context is reserved once; the operating system provides the
/// pages as they are first written. Wiped between sequences and on drop.
pub(crate) struct Cache {
    keys: Vec<u16>,
    values: Vec<u16>,
    context: usize,
    kv_heads: usize,
    head_width: usize,
    /// Positions written since the last wipe.
    used: usize,
}

impl Cache {
    pub(crate) fn new(shape: &Hyperparameters) -> Self {
        let numbers = shape.layers * shape.kv_heads * shape.context * shape.head_width;
        Self {
            keys: vec![0; numbers],
            values: vec![0; numbers],
            context: shape.context,
            kv_heads: shape.kv_heads,
            head_width: shape.head_width,
            used: 0,
        }
    }

    /// The places for the key and the value of one head at one position.
    pub(crate) fn place(&mut self, layer: usize, head: usize, position: usize) -> (&mut [u16], &mut [u16]) {
        self.used = self.used.max(position + 1);
        let start = self.start(layer, head) + position * self.head_width;
        let range = start..start + self.head_width;
        (&mut self.keys[range.clone()], &mut self.values[range])
    }

    /// Keys and values of one head at the first `positions` positions.
    pub(crate) fn head(&self, layer: usize, head: usize, positions: usize) -> (&[u16], &[u16]) {
        let start = self.start(layer, head);
        let range = start..start + positions * self.head_width;
        (&self.keys[range.clone()], &self.values[range])
    }

    /// Overwrites everything that was written with zeros.
    pub(crate) fn wipe(&mut self) {
        let (context, width) = (self.context * self.head_width, self.used * self.head_width);
        for numbers in [&mut self.keys, &mut self.values] {
            numbers.chunks_exact_mut(context).for_each(|head| head[..width].zeroize());
        }
        self.used = 0;
    }

    fn start(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * self.context * self.head_width
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Hyperparameters {
        Hyperparameters {
            context: 5,
            width: 16,
            layers: 2,
            feed_forward: 8,
            heads: 2,
            kv_heads: 2,
            head_width: 8,
            rope_width: 8,
            rope_base: 1.0,
            rope_step: 1.0,
            norm_epsilon: 1.0,
        }
    }

    #[test]
    fn every_head_and_layer_has_its_own_place_and_a_wipe_reaches_all() {
        let mut cache = Cache::new(&shape());
        let mark =
            |layer: usize, head: usize, position: usize| (1 + layer * 100 + head * 10 + position) as u16;
        for (layer, head, position) in
            (0..2).flat_map(|l| (0..2).flat_map(move |h| (0..4).map(move |p| (l, h, p))))
        {
            let (key, value) = cache.place(layer, head, position);
            key.fill(mark(layer, head, position));
            value.fill(mark(layer, head, position) + 1000);
        }
        let (keys, values) = cache.head(1, 0, 4);
        let expected: Vec<u16> = (0..4).flat_map(|position| [mark(1, 0, position); 8]).collect();
        assert_eq!(keys, expected);
        assert!(values.iter().zip(&expected).all(|(value, key)| *value == key + 1000));
        cache.wipe();
        assert!(cache.keys.iter().chain(&cache.values).all(|number| *number == 0));
    }
}
