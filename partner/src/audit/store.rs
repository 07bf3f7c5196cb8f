//! Where logs are read from: a folder, or a web server that serves one.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;

use cleanroom_attestation::digest::Sha256Digest;

/// The longest list of boots, in bytes.
const MAX_LIST: u64 = 1 << 20;
/// The name of the list of boots, one in each line.
const LIST: &str = "boots";

/// A store of logs.
pub enum Store {
    /// A folder.
    Folder(PathBuf),
    /// A folder behind an address `http://HOST[:PORT][/PATH]`. What is read is signed and no secret, so there is no TLS.
    #[cfg(feature = "online")]
    Web(Web),
}

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{place} could not be read: {source}")]
pub struct StoreError {
    /// What was to be read.
    pub place: String,
    /// Why it was not.
    pub source: io::Error,
}

impl fmt::Display for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(formatter, "{}", path.display()),
            #[cfg(feature = "online")]
            Self::Web(web) => write!(formatter, "http://{}{}", web.authority, web.path),
        }
    }
}

impl Store {
    /// The store that `text` names.
    ///
    /// # Errors
    /// What is wrong with a URL.
    pub fn named(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None => Ok(Self::Folder(PathBuf::from(text))),
            #[cfg(feature = "online")]
            Some(("http", rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let path = path.trim_end_matches('/');
                if authority.is_empty() || authority.contains('@') {
                    return Err("expected http://HOST[:PORT][/PATH]".to_owned());
                }
                let path = if path.is_empty() { String::new() } else { format!("/{path}") };
                Ok(Self::Web(Web { authority: authority.to_owned(), path }))
            }
            #[cfg(feature = "online")]
            Some(_) => Err("expected a folder or an address that begins with http://".to_owned()),
            #[cfg(not(feature = "online"))]
            Some(_) => {
                Err("this program has no network; expected a folder, such as a copy of the store".to_owned())
            }
        }
    }

    /// Every boot that has a log here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn boots(&self) -> Result<Vec<Sha256Digest>, StoreError> {
        let failed = |source| StoreError { place: self.to_string(), source };
        let mut boots: Vec<Sha256Digest> = match self {
            Self::Folder(path) => {
                let names =
                    fs::read_dir(path).map_err(failed)?.map(|entry| entry.map(|entry| entry.file_name()));
                let names = names.collect::<io::Result<Vec<_>>>().map_err(failed)?;
                names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect()
            }
            #[cfg(feature = "online")]
            Self::Web(_) => Vec::new(),
        };
        let listed = self.read(LIST, MAX_LIST)?;
        #[cfg(feature = "online")]
        if let (Self::Web(_), None) = (self, &listed) {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no file `boots`")));
        }
        let listed = String::from_utf8(listed.unwrap_or_default()).unwrap_or_default();
        boots.extend(listed.lines().filter_map(|line| line.parse::<Sha256Digest>().ok()));
        boots.sort();
        boots.dedup();
        Ok(boots)
    }

    /// A file of at most `limit` bytes; `None` if there is none, or a longer one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let failed = |source| StoreError { place: format!("{self}/{path}"), source };
        match self {
            Self::Folder(folder) => {
                let file = match fs::File::open(folder.join(path)) {
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                    {
                        return Ok(None);
                    }
                    file => file.map_err(failed)?,
                };
                let mut bytes = Vec::new();
                file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
                Ok(Some(bytes).filter(|bytes| u64::try_from(bytes.len()).is_ok_and(|length| length <= limit)))
            }
            #[cfg(feature = "online")]
            Self::Web(web) => web.get(path, limit).map_err(failed),
        }
    }
}

/// A folder that a web server serves.
#[cfg(feature = "online")]
pub struct Web {
    authority: String,
    path: String,
}

#[cfg(feature = "online")]
impl Web {
    /// How long the server may take for one file.
    const TIME: std::time::Duration = std::time::Duration::from_secs(30);

    fn get(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let got = async { tokio::time::timeout(Self::TIME, self.fetch(path, limit)).await };
        runtime.block_on(got).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn fetch(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        use http_body_util::{BodyExt as _, Empty, Limited};
        let address = if self.authority.contains(':') {
            self.authority.clone()
        } else {
            format!("{}:80", self.authority)
        };
        let stream = cleanroom_program::network::connect(&address).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get(format!("{}/{path}", self.path))
            .header("host", &self.authority)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        if status == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(io::Error::other(format!("the server answered {status}")));
        }
        let body =
            Limited::new(response.into_body(), usize::try_from(limit).unwrap_or(usize::MAX)).collect().await;
        connection.abort();
        match body {
            Ok(body) => Ok(Some(body.to_bytes().to_vec())),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
