//! Whoever is slow at the public port, or sends what is of no use, keeps nobody else out.

use tokio::net::TcpStream;

use super::*;

/// A webhook call of which the head is sent, and one byte of the body.
async fn begun(caller: &Caller, length: u64) -> TcpStream {
    let (address, path) = caller.url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let signature = "00".repeat(32);
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\nX-Dropbox-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n{{"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    socket
}

/// All that it says until it closes.
async fn last_words(mut socket: TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(support::PATIENCE, socket.read_to_end(&mut said));
    // Closed before all was read: a reset.
    let _ = read.await.expect("it closes in time");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_is_answered_at_once_beside_any_number_of_slow_ones() {
    let house = support::start_with(with_webhooks).await;
    let caller = Caller::of(&house);
    let body = of_user(&house.emulator.account().account_id);
    assert_eq!(caller.signed(&body).await.0, 200, "the apps' secrets are known from here on");
    let mut slow = Vec::new();
    for _ in 0..200 {
        slow.push(begun(&caller, 1000).await);
    }
    // Well below the time that a body has: who is slow was sent away before. The best of three, for what else the machine does.
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(caller.signed(&body).await.0, 200);
        took = took.min(begun.elapsed());
    }
    assert!(took < Duration::from_secs(2), "{took:?}");
    let last = slow.pop().expect("the last one");
    for (n, socket) in slow.drain(..100).enumerate() {
        assert_eq!(last_words(socket).await, "", "the first ones gave way: {n}");
    }
    let said = last_words(last).await;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.ends_with("the body has to come within 5 s\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_body_that_is_of_no_use() {
    let house = support::start_with(with_webhooks).await;
    let caller = Caller::of(&house);
    let unknown = Caller { url: caller.url.replace("emulatorappkey0", "nobody"), ..Caller::of(&house) };
    let opened = Instant::now();
    let said = last_words(begun(&caller, 100 << 30).await).await;
    assert!(said.starts_with("HTTP/1.1 413 ") && said.ends_with("at most 1048576 bytes\n"), "{said}");
    let said = last_words(begun(&unknown, 1000).await).await;
    assert!(said.starts_with("HTTP/1.1 404 "), "{said}");
    assert!(opened.elapsed() < Duration::from_secs(4), "sooner than a body has to come: {:?}", opened.elapsed());
}
