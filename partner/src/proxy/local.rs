//! The users of the proxy: programs on this machine, programs that know its token, and web pages whose origin the
//! user names.
//!
//! The proxy's port is open to everything that runs here, a browser included, and a browser sends what any
//! web page asks it to. So each request must show something that a page cannot make a browser send without
//! asking first (the preflight request of CORS, Fetch standard section 3.2), and must not show what only
//! browsers send. A browser cannot reach a Unix socket, and a page does not know the token.

use core::fmt;
use core::str::FromStr;
use std::net::SocketAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION,
    CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Uri};

use super::token::{API_KEY, Token};
use crate::client::Problem;

/// Headers that browsers set themselves (Fetch Metadata), and no program does. A browser that sends any of the
/// family sends `Sec-Fetch-Site` with every request.
const BROWSERS_OWN: [HeaderName; 3] = [
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-user"),
];

/// The header of the same family that Node's own `fetch` sends too, always with the value `cors`.
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The origin of web pages, such as `http://localhost:3000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let uri: Uri = text.parse().map_err(|_| OriginError)?;
        let web = matches!(uri.scheme_str(), Some("http" | "https"));
        // What a browser sends is exactly scheme, host and port, in lower case.
        let plain = uri.authority().is_some_and(|authority| {
            !authority.as_str().contains('@')
                && text == format!("{}://{}", uri.scheme_str().unwrap_or_default(), authority)
        });
        if !web || !plain || text.chars().any(|character| character.is_ascii_uppercase()) {
            return Err(OriginError);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| OriginError)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// Some text is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an origin such as http://localhost:3000: a scheme, a host and a port if it is not the usual one"
)]
pub struct OriginError;

/// What the user allows.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) origins: Vec<Origin>,
    /// Without one, only this machine is served.
    pub(super) token: Option<Token>,
}

/// A request that may be served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Caller<'a> {
    /// A program.
    Program,
    /// A page of an origin that the user allows.
    Page(&'a Origin),
    /// A browser asks whether a page of that origin may send a request.
    Preflight(&'a Origin),
}

impl Rules {
    /// Who sends a request with this head to the proxy at its address `at`, or to its Unix socket.
    ///
    /// # Errors
    /// The [`Problem`] to answer with, when it may not.
    pub(super) fn caller(
        &self,
        method: &Method,
        headers: &HeaderMap,
        at: Option<SocketAddr>,
    ) -> Result<Caller<'_>, Problem> {
        if let (None, Some(at)) = (&self.token, at) {
            // A name that was pointed at this address (DNS rebinding) is not the proxy's own.
            let is_own = |name: &String| headers.get(HOST).is_some_and(|host| host == name);
            if !at.ip().is_loopback() || !names_of(at).iter().any(is_own) {
                return Err(Problem::not_local());
            }
        }
        let caller = match headers.get(ORIGIN) {
            Some(origin) => {
                let allowed = self.origins.iter().find(|allowed| allowed.0 == origin);
                Caller::Page(allowed.ok_or_else(Problem::not_local)?)
            }
            None if is_of_a_browser(headers) => return Err(Problem::not_local()),
            None => Caller::Program,
        };
        if let Caller::Page(origin) = caller
            && method == Method::OPTIONS
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            return Ok(Caller::Preflight(origin));
        }
        match &self.token {
            Some(token) if token.is_in(headers) => Ok(caller),
            Some(_) => Err(Problem::wrong_token()),
            None if at.is_none() || needs_preflight(headers) => Ok(caller),
            None => Err(Problem::no_credential()),
        }
    }
}

/// Whether the request has a header that only browsers send.
fn is_of_a_browser(headers: &HeaderMap) -> bool {
    BROWSERS_OWN.iter().any(|name| headers.contains_key(name))
        || headers.get_all(MODE).iter().any(|mode| mode != "cors")
}

/// The names under which programs on this machine know the address.
fn names_of(local: SocketAddr) -> [String; 4] {
    let port = local.port();
    [local.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
}

/// Whether the request has something that a browser sends for a page only after a preflight request, which
/// fails here.
///
/// `Authorization: Basic` does not count: a link with a user and a password in it makes a browser send that.
fn needs_preflight(headers: &HeaderMap) -> bool {
    let starts_with = |name, start: &str| {
        let value = headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        value.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
    };
    headers.contains_key(API_KEY)
        || starts_with(AUTHORIZATION, "bearer ")
        || starts_with(CONTENT_TYPE, "application/json")
}

/// What a browser wants to read in an answer to a page.
pub(super) fn allow(caller: &Caller<'_>, headers: &mut HeaderMap) {
    let (origin, preflight) = match caller {
        Caller::Program => return,
        Caller::Page(origin) => (origin, false),
        Caller::Preflight(origin) => (origin, true),
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.0.clone());
    headers.insert(VARY, HeaderValue::from_static("origin"));
    if preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        // `*` does not cover Authorization.
        let allowed = HeaderValue::from_static("authorization, *");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        let private = HeaderName::from_static("access-control-allow-private-network");
        headers.insert(private, HeaderValue::from_static("true"));
    } else {
        let exposed = HeaderValue::from_static("request-id, x-request-id, retry-after");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_HOST: (&str, &str) = ("host", "127.0.0.1:8080");
    const KEY: (&str, &str) = ("authorization", "Bearer unused");

    fn ask(
        rules: &Rules,
        method: &Method,
        pairs: &[(&'static str, &'static str)],
    ) -> Result<String, &'static str> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let local = Some("127.0.0.1:8080".parse().unwrap());
        let caller = rules.caller(method, &pairs.collect(), local);
        caller.map(|caller| format!("{caller:?}")).map_err(|problem| problem.code())
    }

    #[test]
    fn programs_are_served() {
        let rules = Rules::default();
        for host in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"] {
            for proof in [
                KEY,
                ("authorization", "bearer x"),
                ("x-api-key", "x"),
                ("content-type", "application/json; charset=utf-8"),
            ] {
                assert_eq!(ask(&rules, &Method::GET, &[("host", host), proof]).unwrap(), "Program");
                let node = [("host", host), proof, ("sec-fetch-mode", "cors")];
                assert_eq!(ask(&rules, &Method::POST, &node).unwrap(), "Program");
            }
        }
    }

    #[test]
    fn what_a_page_makes_a_browser_send_is_refused() {
        let rules = Rules::default();
        for (request, code) in [
            // A name that was pointed here, and none.
            (&[("host", "evil.example:8080"), KEY][..], "not-local"),
            (&[("host", "127.0.0.1"), KEY], "not-local"),
            (&[KEY], "not-local"),
            // A script of a page.
            (&[GOOD_HOST, KEY, ("origin", "https://evil.example")], "not-local"),
            (&[GOOD_HOST, KEY, ("origin", "null")], "not-local"),
            // An image, a link, an address that was typed in, as browsers of today send them.
            (&[GOOD_HOST, KEY, ("sec-fetch-site", "cross-site")], "not-local"),
            (&[GOOD_HOST, KEY, ("sec-fetch-mode", "no-cors")], "not-local"),
            (&[GOOD_HOST, KEY, ("sec-fetch-mode", "cors"), ("sec-fetch-mode", "navigate")], "not-local"),
            (&[GOOD_HOST, KEY, ("sec-fetch-mode", "cors"), ("sec-fetch-site", "same-origin")], "not-local"),
            (&[GOOD_HOST, KEY, ("sec-fetch-dest", "image")], "not-local"),
            (&[GOOD_HOST, KEY, ("sec-fetch-site", "none"), ("sec-fetch-user", "?1")], "not-local"),
            // The same in browsers that send no such header.
            (&[GOOD_HOST], "no-credential"),
            (&[GOOD_HOST, ("content-type", "text/plain")], "no-credential"),
            (&[GOOD_HOST, ("content-type", "application/x-www-form-urlencoded")], "no-credential"),
            // A link with a user and a password in it.
            (&[GOOD_HOST, ("authorization", "Basic dTpw")], "no-credential"),
        ] {
            assert_eq!(ask(&rules, &Method::GET, request), Err(code), "{request:?}");
        }
        // A page that asks first gets no permission.
        let preflight =
            [GOOD_HOST, ("origin", "https://evil.example"), ("access-control-request-method", "POST")];
        assert_eq!(ask(&rules, &Method::OPTIONS, &preflight), Err("not-local"));
    }

    #[test]
    fn pages_of_an_allowed_origin_are_served_and_no_others() {
        let rules = Rules { origins: vec!["http://localhost:3000".parse().unwrap()], token: None };
        let page = [GOOD_HOST, KEY, ("origin", "http://localhost:3000"), ("sec-fetch-site", "cross-site")];
        assert!(ask(&rules, &Method::POST, &page).unwrap().starts_with("Page"));
        let preflight =
            [GOOD_HOST, ("origin", "http://localhost:3000"), ("access-control-request-method", "POST")];
        assert!(ask(&rules, &Method::OPTIONS, &preflight).unwrap().starts_with("Preflight"));
        for origin in
            ["http://localhost:3001", "https://localhost:3000", "http://localhost:3000.evil.example"]
        {
            assert_eq!(ask(&rules, &Method::POST, &[GOOD_HOST, KEY, ("origin", origin)]), Err("not-local"));
        }
        // Without an origin, a browser's request is nobody's.
        let image = [GOOD_HOST, KEY, ("sec-fetch-site", "same-site")];
        assert_eq!(ask(&rules, &Method::GET, &image), Err("not-local"));
        // An allowed page is held to the same rule, so that its images and forms are not served either.
        let form = [GOOD_HOST, ("origin", "http://localhost:3000"), ("content-type", "text/plain")];
        assert_eq!(ask(&rules, &Method::POST, &form), Err("no-credential"));
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        for good in ["http://localhost:3000", "https://app.example", "http://[::1]:3000"] {
            assert_eq!(good.parse::<Origin>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "*",
            "null",
            "localhost:3000",
            "http://localhost:3000/",
            "http://a.example/x",
            "http://u@a.example",
            "ftp://a.example",
            "http://A.example",
            "http://a.example b",
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(OriginError), "{bad}");
        }
    }
}
