mod baseline;
mod cutting;
mod policies;
mod rules;
