//! What the user says about etcd: endpoints and certificates, and what is wrong with it.
//!
//! Takes the contents of files, not their names. Everything that can be told without a connection is refused here.

use std::{fmt, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use thiserror::Error;

/// Why the options for etcd cannot be used.
#[derive(Debug, Error)]
pub enum EtcdOptionsError {
    /// No endpoint at all.
    #[error("--etcd names no endpoint; name at least one, such as http://192.0.2.1:2379")]
    NoEndpoint,
    /// A text that is no endpoint.
    #[error("--etcd {text:?} is not an endpoint: {reason}; write http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Certificates for an endpoint that is not encrypted.
    #[error("--etcd-ca, --etcd-cert and --etcd-key are given, but --etcd {endpoint} is not encrypted; write https://")]
    NotEncrypted {
        /// The endpoint.
        endpoint: String,
    },
    /// An encrypted endpoint without an authority to check it by.
    #[error("--etcd {endpoint} is encrypted; name the file with its authority's certificate with --etcd-ca")]
    NoAuthority {
        /// The endpoint.
        endpoint: String,
    },
    /// Half of a client's identity.
    #[error("{given} is given without {missing}; a client's certificate and its key belong together")]
    HalfIdentity {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        missing: &'static str,
    },
    /// A file that holds something else.
    #[error("the file of {flag} holds no PEM {what}; convert it with `openssl x509` or `openssl pkey`")]
    NotPem {
        /// The flag.
        flag: &'static str,
        /// What it should hold.
        what: &'static str,
    },
    /// The client library refused it all the same.
    #[error("the client for --etcd {endpoint} cannot be made; check --etcd-ca, --etcd-cert and --etcd-key")]
    Client {
        /// The endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: etcd_client::Error,
    },
}

/// Contents of the PEM files of `--etcd-ca`, `--etcd-cert` and `--etcd-key`.
#[derive(Clone, Default)]
pub struct Pem {
    /// The authority's certificates.
    pub ca: Option<Vec<u8>>,
    /// Our certificate.
    pub cert: Option<Vec<u8>>,
    /// Our key.
    pub key: Option<Vec<u8>>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ca, cert, key } = self;
        let given = [ca.is_some(), cert.is_some(), key.is_some()];
        f.debug_struct("Pem").field("given", &given).finish_non_exhaustive()
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For the answer to a call.
    pub call: Duration,
    /// For a connection.
    pub connect: Duration,
    /// Between two HTTP/2 pings, at least 10 s: etcd ends connections that ping oftener than every 5 s.
    pub keepalive: Duration,
    /// For the answer to a ping.
    pub keepalive_timeout: Duration,
    /// How long an endpoint that failed is passed over.
    pub suspension: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(3),
            connect: Duration::from_secs(1),
            keepalive: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            suspension: Duration::from_secs(2),
        }
    }
}

/// Where etcd is, and how to be trusted by it.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    pub(super) endpoints: Vec<String>,
    pem: Pem,
    pub(super) timing: Timing,
}

impl EtcdOptions {
    /// Reads the values of `--etcd`, each one or more endpoints with commas between, and the contents of the PEM files.
    ///
    /// # Errors
    /// When something is malformed or does not fit together.
    pub fn parse<T: AsRef<str>>(etcd: &[T], pem: Pem) -> Result<Self, EtcdOptionsError> {
        check_pem(&pem)?;
        let encrypted = pem.ca.is_some();
        let mut endpoints = Vec::new();
        for text in etcd.iter().flat_map(|value| value.as_ref().split(',')).map(str::trim) {
            let endpoint = parse_endpoint(text, encrypted)?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err(EtcdOptionsError::NoEndpoint);
        }
        Ok(Self { endpoints, pem, timing: Timing::default() })
    }

    /// The same with other times.
    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    pub(super) fn connect_options(&self) -> ConnectOptions {
        let options = ConnectOptions::new()
            .with_connect_timeout(self.timing.connect)
            .with_keep_alive(self.timing.keepalive, self.timing.keepalive_timeout)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let Some(ca) = &self.pem.ca else { return options };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        if let (Some(cert), Some(key)) = (&self.pem.cert, &self.pem.key) {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        options.with_tls(tls)
    }
}

fn check_pem(pem: &Pem) -> Result<(), EtcdOptionsError> {
    match (&pem.cert, &pem.key) {
        (Some(_), None) => {
            return Err(EtcdOptionsError::HalfIdentity { given: "--etcd-cert", missing: "--etcd-key" });
        }
        (None, Some(_)) => {
            return Err(EtcdOptionsError::HalfIdentity { given: "--etcd-key", missing: "--etcd-cert" });
        }
        (Some(_), Some(_)) if pem.ca.is_none() => {
            return Err(EtcdOptionsError::HalfIdentity { given: "--etcd-cert", missing: "--etcd-ca" });
        }
        _ => {}
    }
    for (flag, content, what, mark) in [
        ("--etcd-ca", &pem.ca, "certificate", "-----BEGIN CERTIFICATE-----"),
        ("--etcd-cert", &pem.cert, "certificate", "-----BEGIN CERTIFICATE-----"),
        ("--etcd-key", &pem.key, "private key", "PRIVATE KEY-----"),
    ] {
        if content.as_ref().is_some_and(|content| !String::from_utf8_lossy(content).contains(mark)) {
            return Err(EtcdOptionsError::NotPem { flag, what });
        }
    }
    Ok(())
}

/// An endpoint with its scheme; without one, encrypted if there is an authority to check it by.
fn parse_endpoint(text: &str, encrypted: bool) -> Result<String, EtcdOptionsError> {
    let wrong = |reason| EtcdOptionsError::Endpoint { text: text.chars().take(80).collect(), reason };
    if text.is_empty() {
        return Err(EtcdOptionsError::NoEndpoint);
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(wrong("its scheme is neither http nor https")),
        None if encrypted => ("https", text),
        None => ("http", text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(|c: char| matches!(c, '/' | '?' | '#' | '@') || c.is_whitespace() || c.is_control()) {
        return Err(wrong("there is more than a host and a port"));
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("it has no port; etcd's is usually 2379"))?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']']),
    };
    if !valid_host {
        return Err(wrong("its host is neither a name nor an address; IPv6 addresses stand in brackets"));
    }
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(wrong("its port is not a number from 1 to 65535"));
    }
    let endpoint = format!("{scheme}://{rest}");
    match (scheme, encrypted) {
        ("http", true) => Err(EtcdOptionsError::NotEncrypted { endpoint }),
        ("https", false) => Err(EtcdOptionsError::NoAuthority { endpoint }),
        _ => Ok(endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERT: &str = "-----BEGIN CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n";

    fn pem(ca: Option<&str>, cert: Option<&str>, key: Option<&str>) -> Pem {
        let bytes = |text: Option<&str>| text.map(|t| t.as_bytes().to_vec());
        Pem { ca: bytes(ca), cert: bytes(cert), key: bytes(key) }
    }

    fn error(etcd: &[&str], pem: Pem) -> String {
        EtcdOptions::parse(etcd, pem).unwrap_err().to_string()
    }

    #[test]
    fn endpoints_are_taken_from_repeated_and_comma_separated_values() {
        let options =
            EtcdOptions::parse(&["http://a:2379,b:2379/", "http://a:2379", "[::1]:1"], Pem::default()).unwrap();

        assert_eq!(options.endpoints, ["http://a:2379", "http://b:2379", "http://[::1]:1"]);
    }

    #[test]
    fn a_bare_endpoint_is_encrypted_where_there_is_an_authority() {
        let options = EtcdOptions::parse(&["a:2379"], pem(Some(CERT), None, None)).unwrap();

        assert_eq!(options.endpoints, ["https://a:2379"]);
    }

    #[test]
    fn malformed_endpoints_are_refused_with_flag_and_remedy() {
        for bad in [
            "a",
            "ftp://a:1",
            "http://a",
            "http://a:0",
            "a:65536",
            "::1:2379",
            "http://u@a:1",
            "http://a:1/x",
            "http://:1",
            "a b:1",
        ] {
            let message = error(&[bad], Pem::default());

            assert!(message.contains("--etcd") && message.contains("write http://HOST:PORT"), "{bad}: {message}");
        }
        assert!(error(&["a:1,"], Pem::default()).contains("--etcd names no endpoint"));
        assert!(error(&[], Pem::default()).contains("--etcd names no endpoint"));
    }

    #[test]
    fn certificates_that_do_not_fit_together_are_refused_naming_the_flags() {
        for (etcd, pem, expected) in [
            ("http://a:1", pem(Some(CERT), None, None), "is not encrypted; write https://"),
            ("https://a:1", Pem::default(), "--etcd-ca"),
            ("a:1", pem(Some(CERT), Some(CERT), None), "--etcd-cert is given without --etcd-key"),
            ("a:1", pem(Some(CERT), None, Some(KEY)), "--etcd-key is given without --etcd-cert"),
            ("a:1", pem(None, Some(CERT), Some(KEY)), "without --etcd-ca"),
            ("a:1", pem(Some("junk"), None, None), "--etcd-ca holds no PEM certificate"),
            ("a:1", pem(Some(CERT), Some(CERT), Some("junk")), "--etcd-key holds no PEM private key"),
        ] {
            let message = error(&[etcd], pem);

            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        let options = EtcdOptions::parse(&["a:1"], pem(Some(CERT), Some(CERT), Some(KEY))).unwrap();

        assert!(!format!("{options:?}").contains("PRIVATE"));
    }
}
