//! Why a proxy did not let a connection through. The HTTP client only says that there is none, so the proxy is asked
//! once more, on a connection of its own, for the same way; what it answers is told with its remedy. Nothing is sent
//! through it.

use std::io;

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

use super::{Hop, ProxyKind};
use crate::{
    fault::{Fault, Reason},
    limits,
};

/// Looks whether the proxy would pass on to `target`. `None`: it would, so the trouble lies beyond it.
pub(in crate::dropbox) async fn ask(hop: &Hop, target: &Url, tls: Option<ClientConfig>) -> Option<Fault> {
    match tokio::time::timeout(limits::PROXY_ASK_TIMEOUT, asked(hop, target, tls)).await {
        Ok(told) => told.err(),
        Err(_) => Some(unavailable(hop, "does not answer; check its address and port, and that it can be reached")),
    }
}

/// What a proxy that answered 407 wants. `offered`: its `Proxy-Authenticate` headers.
pub(in crate::dropbox) fn challenged<'a>(hop: &Hop, offered: impl Iterator<Item = &'a str>) -> Fault {
    const KNOWN: [&str; 6] = ["Basic", "Digest", "NTLM", "Negotiate", "Kerberos", "Bearer"];
    let mut schemes: Vec<&str> = Vec::new();
    let (mut basic, mut any) = (false, false);
    // Several challenges may stand in one header; what has `=` in it is a parameter of the one before.
    for word in offered.flat_map(|header| header.split(',')).filter_map(|part| part.split_whitespace().next()) {
        if word.contains('=') {
            continue;
        }
        any = true;
        basic |= word.eq_ignore_ascii_case("Basic");
        if let Some(known) = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(word))
            && !schemes.contains(known)
        {
            schemes.push(known);
        }
    }
    if any && !basic {
        let schemes = if schemes.is_empty() { "an unknown scheme".to_owned() } else { schemes.join(", ") };
        let text = format!("the proxy {hop} takes {schemes} only; the connector speaks basic authentication");
        return Fault::new(Reason::ProxyAuthUnsupported, text).fact("proxyAuthentication", schemes);
    }
    rejected(hop, hop.basic.is_some())
}

async fn asked(hop: &Hop, target: &Url, tls: Option<ClientConfig>) -> Result<(), Fault> {
    let stream = TcpStream::connect((hop.host.trim_matches(['[', ']']), hop.port)).await;
    let mut stream = stream.map_err(|error| unreachable(hop, &error))?;
    let broken = |error: io::Error| {
        tracing::debug!(%error, "asking the proxy");
        unavailable(hop, "breaks off; check that it is a proxy of the kind that is set")
    };
    match hop.kind {
        ProxyKind::Http => tunnel(&mut stream, hop, target).await.map_err(broken)?,
        ProxyKind::Https => {
            let (Some(config), Ok(name)) = (tls, ServerName::try_from(hop.host.clone())) else { return Ok(()) };
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let mut stream = connector.connect(name, stream).await.map_err(|error| {
                let untrusted = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                let text = match untrusted {
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        "shows a certificate that is not trusted; put its CA into upstream_ca_file"
                    }
                    _ => "does not speak TLS; is its kind HTTP?",
                };
                unavailable(hop, text).source(error)
            })?;
            tunnel(&mut stream, hop, target).await.map_err(broken)?
        }
        ProxyKind::Socks5 => socks5(&mut stream, hop, target).await.map_err(broken)?,
        ProxyKind::Socks4 => socks4(&mut stream, hop, target).await.map_err(broken)?,
    }
}

type Told = Result<(), Fault>;

async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, hop: &Hop, target: &Url) -> io::Result<Told> {
    let at = super::authority(target.host_str().unwrap_or_default(), port(target));
    // Plain http is forwarded, not tunnelled: of the answer to a harmless request only a demand for credentials counts.
    let forwarded = target.scheme() != "https";
    let line = if forwarded { format!("HEAD http://{at}/ HTTP/1.1") } else { format!("CONNECT {at} HTTP/1.1") };
    let mut request = format!("{line}\r\nHost: {at}\r\nConnection: close\r\n").into_bytes();
    if let Some(basic) = &hop.basic {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(basic.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= limits::PROXY_HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse::<u16>().ok());
    let offers = |wanted: &str| -> Vec<&str> {
        let headers = lines.clone().filter_map(|line| line.split_once(':'));
        headers.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).collect()
    };
    Ok(match status {
        Some(407) => Err(challenged(hop, offers("proxy-authenticate").into_iter())),
        // Tinyproxy says so to a wrong password.
        Some(401) if offers("www-authenticate").iter().any(|offer| offer.starts_with("Basic")) => {
            Err(rejected(hop, true))
        }
        Some(_) if forwarded => Ok(()),
        Some(200) => Ok(()),
        Some(status) => {
            let text = format!("refuses to pass on to {at} (status {status}); have it allow Dropbox's hosts");
            Err(unavailable(hop, &text))
        }
        None => Err(unavailable(hop, "does not speak HTTP; check its kind, address and port")),
    })
}

async fn socks5(stream: &mut TcpStream, hop: &Hop, target: &Url) -> io::Result<Told> {
    let methods: &[u8] = if hop.login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    stream.write_all(methods).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, &hop.login) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => {
            let mut login = vec![1];
            for part in [user, password.reveal()] {
                login.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                login.extend_from_slice(&part.as_bytes()[..part.len().min(255)]);
            }
            stream.write_all(&zeroize::Zeroizing::new(login)).await?;
            let mut verdict = [0; 2];
            // Many close at once instead of saying no.
            if stream.read_exact(&mut verdict).await.is_err() || verdict[1] != 0 {
                return Ok(Err(rejected(hop, true)));
            }
        }
        ([5, 255], None) => return Ok(Err(rejected(hop, false))),
        ([5, _], _) => {
            let text = format!("the proxy {hop} takes neither no authentication nor user and password");
            return Ok(Err(Fault::new(Reason::ProxyAuthUnsupported, text)));
        }
        _ => return Ok(Err(unavailable(hop, "does not speak SOCKS5; check its kind, address and port"))),
    }
    let name = target.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let mut request = vec![5, 1, 0];
    match name.parse() {
        Ok(std::net::IpAddr::V4(ip)) => request.extend([&[1][..], &ip.octets()].concat()),
        Ok(std::net::IpAddr::V6(ip)) => request.extend([&[4][..], &ip.octets()].concat()),
        Err(_) => request.extend([&[3, u8::try_from(name.len()).unwrap_or(u8::MAX)][..], name.as_bytes()].concat()),
    }
    request.extend(port(target).to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    let why = match reply[1] {
        0 => return Ok(Ok(())),
        2 => "its rules do not allow it",
        3 | 4 => "it cannot reach it",
        5 => "the connection was refused there",
        _ => "it does not say why",
    };
    Ok(Err(unavailable(hop, &format!("refuses to pass on to {name}: {why}"))))
}

async fn socks4(stream: &mut TcpStream, hop: &Hop, target: &Url) -> io::Result<Told> {
    let name = target.host_str().unwrap_or_default();
    let mut request = vec![4, 1];
    request.extend(port(target).to_be_bytes());
    match name.parse::<std::net::Ipv4Addr>() {
        Ok(ip) => request.extend([&ip.octets()[..], &[0]].concat()),
        // An address of this form says that a name follows (4a).
        Err(_) => request.extend([&[0, 0, 0, 1, 0][..], name.as_bytes(), &[0]].concat()),
    }
    stream.write_all(&request).await?;
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).await?;
    Ok(match reply[..2] {
        [0, 90] => Ok(()),
        [0, 92 | 93] => {
            let text = format!("the proxy {hop} wants an identd; use SOCKS5 with user and password");
            Err(Fault::new(Reason::ProxyAuthUnsupported, text))
        }
        [0, _] => Err(unavailable(hop, &format!("refuses to pass on to {name}"))),
        _ => Err(unavailable(hop, "does not speak SOCKS4; check its kind, address and port")),
    })
}

fn port(target: &Url) -> u16 {
    target.port_or_known_default().unwrap_or(443)
}

fn rejected(hop: &Hop, given: bool) -> Fault {
    let text = match given {
        true => format!("the proxy {hop} does not accept the user and password of the application parameter"),
        false => format!("the proxy {hop} wants a user and a password"),
    };
    Fault::new(Reason::ProxyAuthRequired, text)
}

fn unreachable(hop: &Hop, error: &io::Error) -> Fault {
    let text = format!("cannot be reached ({}); check its address and port, and that it runs", error.kind());
    unavailable(hop, &text)
}

fn unavailable(hop: &Hop, text: &str) -> Fault {
    Fault::new(Reason::ProxyUnavailable, format!("the proxy {hop} {text}")).retry_after(limits::BUSY_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(basic: bool) -> Hop {
        let basic = basic.then(|| crate::dropbox::egress::basic("me", "hush"));
        Hop { kind: ProxyKind::Http, host: "proxy".into(), port: 3128, basic, login: None }
    }

    #[test]
    fn what_a_proxy_offers_decides_what_is_missing() {
        let told = |offered: &[&str], given| challenged(&hop(given), offered.iter().copied()).reason();
        for given in [true, false] {
            assert_eq!(told(&[], given), Reason::ProxyAuthRequired);
            assert_eq!(told(&["Basic realm=\"x, y\""], given), Reason::ProxyAuthRequired);
            assert_eq!(told(&["NTLM", "basic realm=x"], given), Reason::ProxyAuthRequired);
            assert_eq!(told(&["Negotiate, Basic realm=x"], given), Reason::ProxyAuthRequired);
            assert_eq!(told(&["NTLM"], given), Reason::ProxyAuthUnsupported);
            assert_eq!(told(&["Negotiate, NTLM"], given), Reason::ProxyAuthUnsupported);
            assert_eq!(told(&["Digest realm=\"a\", qop=\"auth\""], given), Reason::ProxyAuthUnsupported);
            assert_eq!(told(&["Strange"], given), Reason::ProxyAuthUnsupported);
        }
        let fault = challenged(&hop(true), ["NEGOTIATE", "ntlm"].into_iter());
        assert_eq!(fault.get("proxyAuthentication"), Some("Negotiate, NTLM"));
        assert!(!format!("{fault:?}").contains("hush"));
    }
}
