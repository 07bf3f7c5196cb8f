mod baseline;
mod classifiers;
mod cutting;
mod policies;
mod rules;
