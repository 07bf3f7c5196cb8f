//! Secrets of days, and the records that are sealed under them.
//!
//! Each broker makes one secret for each day and model, keeps it for the days that the release states, and deletes it. An enclave
//! gets the secret of the present day, to seal. To open a record it gets no secret, but the key of that broker's part of that
//! one record, and only with an opening that the authorities have signed.
//!
//! | module | contents |
//! |---|---|
//! | `day` | the secret of a day, and the keys of parts that follow from it |
//! | `request` | what an enclave shows to a broker, and the broker's signed answer |
//! | `asked` | the requests that wait for an answer |
//! | `collector` | the secrets of days that an enclave has |
//! | `sealing` | the key of a record: split among brokers, joined again, given to a receiver |

mod asked;
mod collector;
mod day;
mod request;
mod sealing;
#[cfg(test)]
mod tests;

pub use asked::DayError;
pub use collector::{DayCollector, DaySecrets, SEALS_AFTER_MS};
pub use day::{DaySecret, PartKey};
pub use request::{RetentionAnswer, RetentionRequest, Wanted};
pub use sealing::{OpeningCollector, open_for_receiver, seal_record};
