//! Answers of our own that look like the metadata service's: clients tell what they talk to by them.
//! Decides nothing.

use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use std::time::SystemTime;
use zeroize::Zeroizing;

pub(crate) const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
/// Word for word what the service sends with a 400.
const BAD_REQUEST: &str = "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n\
     <!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\
     \t\t \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
     <html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n\
     \x20<head>\n  <title>400 - Bad Request</title>\n </head>\n\
     \x20<body>\n  <h1>400 - Bad Request</h1>\n </body>\n</html>\n";

/// A new token of our own. `ttl`: seconds.
pub(crate) fn issued(token: Zeroizing<Vec<u8>>, ttl: u32) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_owner(Owned(token)));
    response.headers_mut().insert(TTL, ttl.into());
    dated(response.headers_mut());
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// Wiped when the last who sends it lets go.
struct Owned(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A token that is not valid.
pub(crate) fn unauthorized() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    // hyper leaves it out of an answer to HEAD
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    dated(response.headers_mut());
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// An ask for a token without a life that one can have.
pub(crate) fn bad_request() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(BAD_REQUEST.as_bytes()));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    dated(headers);
    response
}

fn dated(headers: &mut HeaderMap) {
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(header::DATE, date);
    }
    headers.insert(header::SERVER, HeaderValue::from_static("EC2ws"));
}
