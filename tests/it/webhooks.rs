//! The webhook address on the public port: challenges, signatures, bodies of every kind, and how much of it can be borne.

mod slow;

use std::time::{Duration, Instant};

use dropbox_connector::{
    api::{plain::watch_events_response::Payload, v1 as pb},
    config::Config,
    emulator::control::{Seed, SeedFile},
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{self, House, PARAMETER};

fn with_webhooks(config: &mut Config) {
    config.public_http_listen = "127.0.0.1:0".into();
    config.webhooks = true;
}

struct Caller {
    http: reqwest::Client,
    url: String,
    secret: String,
}

impl Caller {
    fn of(house: &House) -> Caller {
        let login = house.emulator.account();
        let address = house.addresses.public_http.expect("a public port");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Caller { http, url: format!("http://{address}/webhook/{}", login.app_key), secret: login.app_secret }
    }

    fn sign(&self, body: &[u8]) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.secret.as_bytes());
        hex::encode(ring::hmac::sign(&key, body))
    }

    async fn get(&self, query: &str) -> reqwest::Response {
        self.http.get(format!("{}{query}", self.url)).send().await.expect("an answer")
    }

    async fn post(&self, body: impl Into<Vec<u8>>, signature: &str) -> (u16, String) {
        let request = self.http.post(&self.url).header("X-Dropbox-Signature", signature).body(body.into());
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn signed(&self, body: &str) -> (u16, String) {
        self.post(body, &self.sign(body.as_bytes())).await
    }
}

fn of_user(account: &str) -> String {
    json!({ "list_folder": { "accounts": [account] }, "delta": { "users": [12_345_678] } }).to_string()
}

#[tokio::test]
async fn a_challenge_comes_back_as_plain_text_and_nothing_else_does() {
    let house = support::start_with(with_webhooks).await;
    let caller = Caller::of(&house);
    let answer = caller.get("?challenge=aZ-9%20%3Cb%3E").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.text().await.unwrap(), "aZ-9 <b>");
    let long = format!("?challenge={}", "x".repeat(1025));
    for bad in ["", "?challenge=", "?challenge=%C3%A4", "?challenge=a%0Ab", &long] {
        assert_eq!(caller.get(bad).await.status(), 400, "{bad}");
    }
    let unknown = Caller { url: caller.url.replace("emulatorappkey0", "nobody"), ..Caller::of(&house) };
    assert_eq!(unknown.get("?challenge=x").await.status(), 404);
    assert_eq!(unknown.signed(&of_user("dbid:x")).await.0, 404);
    let other_method = caller.http.put(&caller.url).send().await.expect("an answer");
    assert_eq!(other_method.status(), 405);
}

#[tokio::test]
async fn only_what_the_apps_secret_signed_is_believed() {
    let house = support::start_with(with_webhooks).await;
    let caller = Caller::of(&house);
    let account = house.emulator.account().account_id;
    let body = of_user(&account);
    assert_eq!(caller.signed(&body).await, (200, String::new()));
    let right = caller.sign(body.as_bytes());
    let other = Caller { secret: "another".into(), ..Caller::of(&house) }.sign(body.as_bytes());
    for wrong in ["", "zz", &right[..62], &other, &caller.sign(b"other bytes")] {
        assert_eq!(caller.post(body.as_str(), wrong).await.0, 403, "{wrong}");
    }
    assert_eq!(caller.post(body.as_str(), &right.to_uppercase()).await.0, 200);
    let team = json!({ "list_folder": { "teams": { "dbtid:t": ["dbmid:a", "dbmid:b"] } }, "delta": {} }).to_string();
    let strange = json!({ "something": "new" }).to_string();
    for good in [team.as_str(), &strange, &of_user("dbid:nobody-here")] {
        assert_eq!(caller.signed(good).await.0, 200, "{good}");
    }
    for malformed in ["", "null", "[", "\u{1}", r#"{"list_folder": 5}"#, r#"{"list_folder": {"accounts": [5]}}"#] {
        let (status, reason) = caller.signed(malformed).await;
        assert_eq!(status, 400, "{malformed}");
        assert!(reason.starts_with("the body is not a notification: ") && reason.contains("line 1"), "{reason}");
    }
    assert!(caller.post(body.as_str(), "zz").await.1.contains("X-Dropbox-Signature"));
}

#[tokio::test]
async fn a_parameters_own_app_has_its_own_address_and_a_new_secret_holds_at_once() {
    let house = support::start_with(with_webhooks).await;
    let caller = Caller::of(&house);
    assert_eq!(caller.signed("{}").await.0, 200);
    let parameter = pb::ApplicationParameter {
        application_parameter_id: "other".into(),
        app_key: house.emulator.account().app_key,
        app_secret: "newer".into(),
        ..Default::default()
    };
    let create = pb::CreateApplicationParameterRequest { application_parameter: Some(parameter), ..Default::default() };
    house.admin().await.create_application_parameter(create).await.expect("created");
    let newer = Caller { secret: "newer".into(), ..Caller::of(&house) };
    // Both parameters name the same app: until the older one is changed, too, both secrets hold.
    support::until("the newer secret is known", || async { newer.signed("{}").await.0 == 200 }).await;
    assert_eq!(caller.signed("{}").await.0, 200);
}

#[tokio::test]
async fn without_being_asked_for_there_is_no_webhook() {
    let house = support::start_with(|config| config.public_http_listen = "127.0.0.1:0".into()).await;
    let caller = Caller::of(&house);
    assert_eq!(caller.get("?challenge=x").await.status(), 404);
    assert_eq!(caller.signed(&of_user("dbid:x")).await.0, 404);
    let side = format!("http://{}/webhook/emulatorappkey0?challenge=x", house.addresses.http);
    assert_eq!(caller.http.get(side).send().await.expect("an answer").status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_with_a_reason_before_it_has_come() {
    let house = support::start_with(with_webhooks).await;
    let caller = Caller::of(&house);
    let body = vec![b'{'; 10 << 20];
    let (address, path) = caller.url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\nX-Dropbox-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        caller.sign(&body),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    // A little more than is taken; the rest is never sent. The length alone may have been answered by then.
    let _ = socket.write_all(&body[..(1 << 20) + 1024]).await;
    let mut answer = String::new();
    let read = async {
        let mut piece = [0; 1024];
        while !answer.contains("bytes\n") {
            let count = socket.read(&mut piece).await.expect("an answer");
            assert!(count > 0, "{answer}");
            answer.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    tokio::time::timeout(support::PATIENCE, read).await.expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("at most 1048576 bytes"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_a_second_are_answered_in_milliseconds_and_are_a_few_questions_to_dropbox() {
    let house = support::start_with(with_webhooks).await;
    house.control().seed(&Seed { folders: vec!["/in".into()], ..Seed::default() }).expect("a folder");
    let caller = &Caller::of(&house);
    let request =
        pb::WatchEventsRequest { application_parameter_id: PARAMETER.into(), path: "/in".into(), ..Default::default() };
    let mut watch = house.client().watch_events(request).await.expect("a watch").into_inner();
    let asked = || house.control().counter("files/list_folder/continue").calls;
    let body = &of_user(&house.emulator.account().account_id);
    let signature = &caller.sign(body.as_bytes());
    // The index stands, connections are open: from here on only calls make questions.
    support::until("the folder is quiet", || async {
        let before = asked();
        tokio::time::sleep(Duration::from_millis(300)).await;
        before > 0 && asked() == before
    })
    .await;
    let before = asked();
    let begun = Instant::now();
    let calls = stream::iter(0..1000).map(|_| async move {
        let begun = Instant::now();
        assert_eq!(caller.post(body.as_str(), signature).await.0, 200);
        begun.elapsed()
    });
    let mut took: Vec<Duration> = calls.buffer_unordered(8).collect().await;
    let all = begun.elapsed();
    took.sort();
    let questions = asked() - before;
    eprintln!("1,000 calls in {all:?}, half of them within {:?}, {questions} questions", took[500]);
    // Without optimization, on a machine that does other things, too.
    assert!(all < Duration::from_secs(10) && took[500] < Duration::from_millis(50), "{all:?}, {:?}", took[500]);
    let most = 6 + 13 * (1 + all.as_secs());
    assert!((1..=most).contains(&questions), "{questions} questions in {all:?}");
    // And what happens then is told.
    house.control().seed(&Seed { files: vec![SeedFile::text("/in/a", "x")], ..Seed::default() }).expect("a file");
    assert_eq!(caller.post(body.as_str(), signature).await.0, 200);
    let told = async {
        loop {
            let message = watch.message().await.expect("no end").expect("a message").into_plain();
            if let Some(Payload::Change(change)) = message.payload {
                return change;
            }
        }
    };
    let change = tokio::time::timeout(support::PATIENCE, told).await.expect("in time");
    assert_eq!(change.item.expect("an item").path_display, "/in/a");
}

#[tokio::test]
async fn bodies_of_ten_megabytes_and_a_thousand_calls_harm_nobody() {
    let house = support::start_with(with_webhooks).await;
    let caller = &Caller::of(&house);
    let large = vec![b' '; 10 << 20];
    let signature = caller.sign(&large);
    for _ in 0..3 {
        let request = caller.http.post(&caller.url).header("X-Dropbox-Signature", &signature).body(large.clone());
        // It is refused while it is sent: who does not look meanwhile finds the connection closed.
        if let Ok(answer) = request.send().await {
            assert_eq!(answer.status(), 413);
        }
    }
    let body = &of_user(&house.emulator.account().account_id);
    let (good, forged) = (caller.sign(body.as_bytes()), "00".repeat(32));
    let calls = stream::iter(0..1000).map(|n| {
        let signature = if n % 2 == 0 { good.clone() } else { forged.clone() };
        async move { caller.post(body.as_str(), &signature).await.0 }
    });
    let said: Vec<u16> = calls.buffer_unordered(64).collect().await;
    assert_eq!(said.iter().filter(|status| **status == 200).count(), 500);
    assert_eq!(said.iter().filter(|status| **status == 403).count(), 500);
    let request = pb::GetAccountRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    house.client().get_account(request).await.expect("others are served");
}

#[tokio::test]
async fn while_the_store_fails_calls_of_anybody_do_not_read_it_again_and_again() {
    // The time between two readings is short: on a machine that stops in between once more.
    for _ in 0..5 {
        let house = support::start_with(with_webhooks).await;
        let caller = Caller::of(&house);
        let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
        let mut run = async |sql| sqlx::query(sql).execute(&mut store).await.expect("renamed");
        run("ALTER TABLE application_parameters RENAME TO gone_for_now").await;
        let begun = Instant::now();
        assert_eq!(caller.get("?challenge=x").await.status(), 503);
        run("ALTER TABLE gone_for_now RENAME TO application_parameters").await;
        let again = caller.get("?challenge=x").await.status();
        let in_time = begun.elapsed() < Duration::from_secs(1);
        support::until("it is read again", async || caller.get("?challenge=x").await.status() == 200).await;
        if in_time {
            assert_eq!(again, 503, "a moment ago it could not be read");
            return;
        }
    }
    panic!("two requests take a second");
}
