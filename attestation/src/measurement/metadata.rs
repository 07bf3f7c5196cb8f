//! The metadata section: the builder's own account of the build. It is in no PCR.

use core::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny};

use super::error::ImageError;

/// What an image's builder says about it. Nothing of this is measured: it informs and proves nothing.
///
/// The format's `DockerInfo` and `CustomMetadata` must be well-formed and are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Metadata {
    /// Name of the image.
    #[serde(rename(deserialize = "ImageName"))]
    pub image_name: String,
    /// Version of the image, as its builder counts.
    #[serde(rename(deserialize = "ImageVersion"))]
    pub image_version: String,
    /// How the image was built.
    #[serde(rename(deserialize = "BuildMetadata"))]
    pub build: BuildInformation,
    #[serde(rename(deserialize = "DockerInfo"), skip_serializing)]
    docker: Unread,
    #[serde(rename(deserialize = "CustomMetadata"), default, skip_serializing)]
    custom: Unread,
}

/// How an image was built, by its builder's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct BuildInformation {
    /// When, as text; AWS's tools write RFC 3339.
    #[serde(rename(deserialize = "BuildTime"))]
    pub time: String,
    /// With which program.
    #[serde(rename(deserialize = "BuildTool"))]
    pub tool: String,
    /// With which version of it.
    #[serde(rename(deserialize = "BuildToolVersion"))]
    pub tool_version: String,
    /// Operating system of the kernel.
    #[serde(rename(deserialize = "OperatingSystem"))]
    pub operating_system: String,
    /// Version of the kernel.
    #[serde(rename(deserialize = "KernelVersion"))]
    pub kernel_version: String,
}

impl BuildInformation {
    /// The metadata section of an image that is built this way, with the fields in AWS's order. `custom` is whatever else the
    /// builder has to say.
    #[must_use]
    pub fn section(&self, image_name: &str, image_version: &str, custom: &serde_json::Value) -> Vec<u8> {
        // Each name and value is written as JSON text by itself: the order of the fields is part of the bits.
        let pair = |name: &str, value: &str| format!("\"{name}\":{}", serde_json::Value::from(value));
        let build = [
            pair("BuildTime", &self.time),
            pair("BuildTool", &self.tool),
            pair("BuildToolVersion", &self.tool_version),
            pair("OperatingSystem", &self.operating_system),
            pair("KernelVersion", &self.kernel_version),
        ];
        let (name, version) = (pair("ImageName", image_name), pair("ImageVersion", image_version));
        let build = build.join(",");
        format!("{{{name},{version},\"BuildMetadata\":{{{build}}},\"DockerInfo\":{{}},\"CustomMetadata\":{custom}}}")
            .into_bytes()
    }
}

impl Metadata {
    pub(super) fn parse(section: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(section).map_err(|error| {
            // The parser's own message may quote the section, which a stranger wrote.
            let problem = match error.classify() {
                serde_json::error::Category::Eof => "it ends early",
                serde_json::error::Category::Data => "a field is missing, repeated or of another type",
                _ => "it is not JSON",
            };
            ImageError::Metadata { problem, line: error.line(), column: error.column() }
        })
    }
}

/// A JSON value that is checked for its form and then forgotten, so that its size costs no memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl fmt::Debug for Unread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("..")
    }
}
