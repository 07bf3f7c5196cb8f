//! Attributes of partners: what a denial can name instead of each partner.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fields::{AttributeText, TextError};

/// The most attributes of one partner.
pub const PARTNER_ATTRIBUTES_LIMIT: usize = 16;

/// What a release says of a partner under a name: its jurisdiction, its sector, its clearance. The authorities choose names and
/// values, and agree on what they mean.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its name. A partner has at most one value under each.
    pub name: AttributeText,
    /// Its value.
    pub value: AttributeText,
}

/// Why some text is not an [`Attribute`] of the form `NAME=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// There is no `=`.
    #[error("expected NAME=VALUE, for instance jurisdiction=eu")]
    Form,
    /// The name or the value is none.
    #[error("the {what} of an attribute: {error}")]
    Text {
        /// Which of the two.
        what: &'static str,
        /// What is wrong with it.
        error: TextError,
    },
}

impl FromStr for Attribute {
    type Err = AttributeError;

    fn from_str(text: &str) -> Result<Self, AttributeError> {
        let (name, value) = text.split_once('=').ok_or(AttributeError::Form)?;
        let part = |what, text: &str| text.parse().map_err(|error| AttributeError::Text { what, error });
        Ok(Self { name: part("name", name)?, value: part("value", value)? })
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::documents::ATTRIBUTE_TEXT_LIMIT;

    #[test]
    fn an_attribute_is_a_short_name_and_a_short_value_in_one_spelling() {
        for good in ["jurisdiction=eu", "clearance=level-2", "s=energy.grid_1"] {
            assert_eq!(good.parse::<Attribute>().unwrap().to_string(), good);
        }
        for bad in ["", "eu", "=eu", "a=", "a=b=c", "A=b", "a=EU", "a=b ", "-a=b", "a=.b", "ä=b", "a:b=c"] {
            assert!(bad.parse::<Attribute>().is_err(), "{bad:?}");
        }
        let (most, over) = ("x".repeat(ATTRIBUTE_TEXT_LIMIT), "x".repeat(ATTRIBUTE_TEXT_LIMIT + 1));
        assert!(format!("{most}={most}").parse::<Attribute>().is_ok());
        let error = AttributeError::Text {
            what: "value",
            error: TextError::Length { most: ATTRIBUTE_TEXT_LIMIT, actual: ATTRIBUTE_TEXT_LIMIT + 1 },
        };
        assert_eq!(format!("a={over}").parse::<Attribute>(), Err(error));
        let json = |text: &str| serde_json::from_str::<Attribute>(text).is_ok();
        assert!(json(r#"{"name":"a","value":"b"}"#));
        for bad in [
            r#"{"name":"a"}"#,
            r#"{"name":"a","value":null}"#,
            r#"{"name":"a","value":"b","more":"c"}"#,
            r#"{"name":"a","value":"b","value":"b"}"#,
            r#"{"name":"a","value":"B"}"#,
            r#""a=b""#,
        ] {
            assert!(!json(bad), "{bad}");
        }
    }
}
