mod baseline;
mod classifiers;
mod cutting;
mod policies;
mod rules;

/// The text in pieces: each cut is the number of characters of one, and the last has the rest.
fn cut_up(text: &str, cuts: Vec<usize>) -> Vec<&str> {
    let mut rest = text;
    let mut pieces = Vec::new();
    for cut in cuts {
        let cut = rest.char_indices().nth(cut).map_or(rest.len(), |(place, _)| place);
        let (piece, after) = rest.split_at(cut);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}
