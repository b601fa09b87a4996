//! What cursors tell of changes, in every order Dropbox may choose; longpolls; listings made twice at once; webhooks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use dropbox_connector::emulator::{
    DeltaOrder,
    script::{Action, Rule},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::Bench;

/// What a consumer knows: path → tag and id, kept by the rules that Dropbox gives for a delta.
type Known = BTreeMap<String, (String, String)>;

fn apply(known: &mut Known, entry: &Value) {
    let path = entry["path_lower"].as_str().expect("a path").to_owned();
    let beneath = format!("{path}/");
    match entry[".tag"].as_str().expect("a tag") {
        "deleted" => known.retain(|at, _| *at != path && !at.starts_with(&beneath)),
        tag => {
            if tag == "file" {
                known.retain(|at, _| !at.starts_with(&beneath));
            }
            known.insert(path, (tag.to_owned(), entry["id"].as_str().expect("an id").to_owned()));
        }
    }
}

/// Everything that is there, or what changed since, to the end.
async fn drained(bench: &Bench, mut page: Value, known: &mut Known, tags: &mut Vec<String>) -> Value {
    loop {
        for entry in page["entries"].as_array().expect("entries") {
            tags.push(format!("{} {}", entry[".tag"].as_str().unwrap(), entry["path_lower"].as_str().unwrap()));
            apply(known, entry);
        }
        if page["has_more"] == false {
            return page["cursor"].clone();
        }
        page = bench.rpc("files/list_folder/continue", json!({ "cursor": page["cursor"] })).await.good();
    }
}

async fn listed(bench: &Bench, path: &str) -> (Known, Value) {
    let page = bench.rpc("files/list_folder", json!({ "path": path, "recursive": true })).await.good();
    let mut known = Known::new();
    let cursor = drained(bench, page, &mut known, &mut Vec::new()).await;
    (known, cursor)
}

async fn changed(bench: &Bench, cursor: &Value, known: &mut Known) -> (Vec<String>, Value) {
    let page = bench.rpc("files/list_folder/continue", json!({ "cursor": cursor })).await.good();
    let mut tags = Vec::new();
    let cursor = drained(bench, page, known, &mut tags).await;
    (tags, cursor)
}

#[tokio::test]
async fn a_move_is_told_in_the_order_asked_for_and_split_over_pages() {
    let bench = Bench::start().await;
    bench.file("/a/1", b"1").await;
    let (_, cursor) = listed(&bench, "").await;
    bench.rpc("files/move_v2", json!({ "from_path": "/a/1", "to_path": "/b" })).await.good();
    bench.control().switch(|switches| switches.delta_page = Some(1));
    let mut orders = Vec::new();
    for order in [DeltaOrder::AsHappened, DeltaOrder::DeletedLast] {
        bench.control().switch(|switches| switches.delta_order = order);
        let first = bench.rpc("files/list_folder/continue", json!({ "cursor": cursor })).await.good();
        assert_eq!((first["entries"].as_array().unwrap().len(), &first["has_more"]), (1, &json!(true)));
        orders.push(changed(&bench, &cursor, &mut Known::new()).await.0);
    }
    assert_eq!(orders, [["deleted /a/1", "file /b"], ["file /b", "deleted /a/1"]]);
    bench.end();
}

#[tokio::test]
async fn a_folder_goes_as_one_entry_and_one_that_comes_back_is_emptied_first() {
    let bench = Bench::start().await;
    for path in ["/in/a/1", "/in/a/2", "/in/b"] {
        bench.file(path, b"1").await;
    }
    let (mut known, cursor) = listed(&bench, "").await;
    bench.rpc("files/delete_v2", json!({ "path": "/in/a" })).await.good();
    let (tags, cursor) = changed(&bench, &cursor, &mut known).await;
    assert_eq!(tags, ["deleted /in/a"]);
    assert_eq!(known.keys().collect::<Vec<_>>(), ["/in", "/in/b"]);
    bench.file("/in/b2", b"1").await;
    bench.rpc("files/delete_v2", json!({ "path": "/in" })).await.good();
    bench.rpc("files/create_folder_v2", json!({ "path": "/in" })).await.good();
    let (_, inner) = (changed(&bench, &cursor, &mut known).await, ());
    assert_eq!(known.keys().collect::<Vec<_>>(), ["/in"], "{inner:?}");
    bench.end();
}

#[tokio::test]
async fn a_rename_of_case_alone_is_not_told_and_sharing_is_a_storm_that_ends_where_it_began() {
    let bench = Bench::start().await;
    for path in ["/Docs/a", "/Docs/deep/b"] {
        bench.file(path, b"1").await;
    }
    let (mut known, cursor) = listed(&bench, "").await;
    let before = known.clone();
    bench.control().recase(None, "/DOCS").expect("it is there");
    assert!(bench.control().recase(None, "/nothing").is_err());
    let (tags, mut cursor) = changed(&bench, &cursor, &mut known).await;
    assert!(tags.is_empty());
    let shown = bench.rpc("files/get_metadata", json!({ "path": "/docs" })).await.good();
    assert_eq!(shown["path_display"], "/DOCS");
    for (seed, order) in [(1, DeltaOrder::AsHappened), (2, DeltaOrder::DeletedLast), (3, DeltaOrder::Shuffled(3))] {
        bench.control().switch(|switches| (switches.delta_order, switches.delta_page) = (order, Some(1 + seed % 2)));
        let shared = bench.rpc("sharing/share_folder", json!({ "path": "/docs" })).await.good();
        let (tags, next) = changed(&bench, &cursor, &mut known).await;
        assert!(tags.iter().any(|tag| tag.starts_with("deleted")), "a storm: {tags:?}");
        let keys = |known: &Known| known.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&known), keys(&before), "{order:?}");
        let id = shared["shared_folder_id"].clone();
        bench.rpc("sharing/unshare_folder", json!({ "shared_folder_id": id })).await.good();
        cursor = changed(&bench, &next, &mut known).await.1;
        assert_eq!(keys(&known), keys(&before), "{order:?}");
    }
    bench.end();
}

/// Whoever applies entries in sequence ends with the tree, whatever the order and the pages, while writers go on.
#[tokio::test]
async fn a_consumer_of_deltas_ends_with_the_tree_in_every_order() {
    for seed in 0..30 {
        let bench = Bench::start().await;
        let mut dice = StdRng::seed_from_u64(seed);
        let (mut known, mut cursor) = listed(&bench, "").await;
        let place = |dice: &mut StdRng| {
            let depth = dice.random_range(1..4);
            (0..depth).map(|_| format!("/{}", dice.random_range(0..3))).collect::<String>()
        };
        for round in 0..12u64 {
            let order = match round % 3 {
                0 => DeltaOrder::AsHappened,
                1 => DeltaOrder::DeletedLast,
                _ => DeltaOrder::Shuffled(seed * 100 + round),
            };
            let size = dice.random_range(1..4);
            bench.control().switch(|switches| (switches.delta_order, switches.delta_page) = (order, Some(size)));
            let act = async |dice: &mut StdRng| {
                let (a, b) = (place(dice), place(dice));
                // Some of these are refused, as they are of real writers.
                match dice.random_range(0..5) {
                    0 | 1 => {
                        _ = bench.upload("files/upload", json!({ "path": a, "mode": "overwrite" }), a.clone()).await
                    }
                    2 => _ = bench.rpc("files/delete_v2", json!({ "path": a })).await,
                    3 => _ = bench.rpc("files/move_v2", json!({ "from_path": a, "to_path": b })).await,
                    _ => _ = bench.rpc("files/create_folder_v2", json!({ "path": a })).await,
                }
            };
            for _ in 0..dice.random_range(0..6) {
                act(&mut dice).await;
            }
            let mut page = bench.rpc("files/list_folder/continue", json!({ "cursor": cursor })).await.good();
            loop {
                page["entries"].as_array().unwrap().iter().for_each(|entry| apply(&mut known, entry));
                cursor = page["cursor"].clone();
                if page["has_more"] == false {
                    break;
                }
                if dice.random_range(0..3) == 0 {
                    act(&mut dice).await;
                }
                page = bench.rpc("files/list_folder/continue", json!({ "cursor": cursor })).await.good();
            }
        }
        bench.control().switch(|switches| switches.delta_page = None);
        changed(&bench, &cursor, &mut known).await;
        assert_eq!(known, listed(&bench, "").await.0, "seed {seed}");
        bench.end();
    }
}

#[tokio::test]
async fn a_longpoll_hears_that_its_folder_is_gone_and_tells_a_back_off_when_scripted() {
    let bench = Bench::start().await;
    bench.file("/around/in/a", b"1").await;
    let (_, cursor) = listed(&bench, "/around/in").await;
    let poll = || {
        let request =
            bench.http.post(bench.url("files/list_folder/longpoll")).header("Content-Type", "application/json");
        bench.send(request.body(json!({ "cursor": cursor, "timeout": 480 }).to_string()))
    };
    bench.control().switch(|switches| switches.longpoll_backoff = Some(60));
    let (said, ()) = tokio::join!(poll(), async {
        while bench.control().counter("files/list_folder/longpoll").running == 0 {
            tokio::task::yield_now().await;
        }
        bench.rpc("files/delete_v2", json!({ "path": "/around" })).await.good();
    });
    assert_eq!(said.good(), json!({ "changes": true, "backoff": 60 }));
    assert_eq!(bench.control().counter("files/list_folder/longpoll").running_max, 1);
    let gone = bench.rpc("files/list_folder/continue", json!({ "cursor": cursor })).await;
    assert_eq!(gone.error()["path"][".tag"], "not_found");
    bench.control().reset_cursors();
    assert_eq!(poll().await.error()[".tag"], "reset");
    bench.end();
}

#[tokio::test]
async fn the_same_listing_made_twice_at_once_is_refused_the_second_time() {
    let bench = Bench::start().await;
    bench.file("/a", b"1").await;
    let (_, cursor) = listed(&bench, "").await;
    let rule = Rule::always("files/list_folder*", Action::DelayAnswer { millis: 300 });
    bench.control().script([rule]).expect("a rule");
    let go_on = || bench.rpc("files/list_folder/continue", json!({ "cursor": cursor }));
    let (one, two, other) = tokio::join!(go_on(), go_on(), bench.rpc("files/list_folder", json!({ "path": "" })));
    let mut said = [&one, &two];
    said.sort_by_key(|said| said.status);
    assert_eq!((said[0].status, said[1].status, other.status), (200, 429, 200));
    assert_eq!(said[1].json()["error"]["reason"][".tag"], "too_many_requests");
    assert_eq!(go_on().await.status, 200, "one after the other is fine");
    bench.end();
}

/// A receiver of webhooks: what it was sent, and what it answers.
#[derive(Clone, Default)]
struct Receiver {
    heard: Arc<Mutex<Vec<(String, Value)>>>,
    refusing: Arc<Mutex<usize>>,
}

impl Receiver {
    /// Its address.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let receiver = self.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let (head, body) = loop {
                    let mut piece = [0; 4096];
                    let count = stream.read(&mut piece).await.expect("a request");
                    request.extend_from_slice(&piece[..count]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
                    if body.len() >= length {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                let answer = receiver.answer(&head, &body);
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
        });
        format!("http://{address}/hook?a=b")
    }

    fn answer(&self, head: &str, body: &str) -> String {
        if let Some(rest) = head.strip_prefix("GET /hook?a=b&challenge=") {
            let challenge = rest.split(' ').next().expect("a challenge");
            let headers = "content-type: text/plain\r\nx-content-type-options: nosniff\r\nconnection: close";
            return format!("HTTP/1.1 200 OK\r\n{headers}\r\ncontent-length: {}\r\n\r\n{challenge}", challenge.len());
        }
        let signature = head.lines().find_map(|line| line.strip_prefix("x-dropbox-signature: ")).expect("signed");
        self.heard.lock().unwrap().push((signature.to_owned(), serde_json::from_str(body).expect("JSON")));
        let mut refusing = self.refusing.lock().unwrap();
        let status = if *refusing > 0 { "500 No" } else { "200 OK" };
        *refusing = refusing.saturating_sub(1);
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    }

    fn heard(&self) -> Vec<(String, Value)> {
        self.heard.lock().unwrap().clone()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    crate::support::until(what, || std::future::ready(holds())).await;
}

#[tokio::test]
async fn a_webhook_is_challenged_called_once_for_many_changes_signed_and_repeated() {
    let bench = Bench::start().await;
    let control = bench.control();
    assert!(control.register_webhook(None, "http://127.0.0.1:9/hook").await.is_err(), "nobody answers there");
    assert!(control.register_webhook(Some("nobody"), "http://127.0.0.1:9/").await.is_err());
    let receiver = Receiver::default();
    control.register_webhook(None, &receiver.start().await).await.expect("it echoes");
    let other = control.add_account("bo@example.com", "Bo", "Example", None);
    control.issue(Some(&other), None).expect("a grant");
    // Five changes while the first call waits are one call more.
    control.switch(|switches| switches.webhook_delay = Duration::from_secs(5));
    bench.file("/first", b"1").await;
    until("the first call waits", || control.webhooks()[0].running).await;
    for n in 0..5 {
        bench.file(&format!("/{n}"), b"1").await;
    }
    while receiver.heard().is_empty() {
        bench.clock.advance(Duration::from_secs(5)).await;
    }
    while receiver.heard().len() < 2 {
        bench.clock.advance(Duration::from_secs(5)).await;
    }
    until("both are done", || control.webhooks()[0].good == 2).await;
    let heard = receiver.heard();
    assert_eq!(heard[1].1["list_folder"], json!({ "accounts": [bench.login.account_id] }), "the other did not change");
    let body = heard[1].1.to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, bench.login.app_secret.as_bytes());
    ring::hmac::verify(&key, body.as_bytes(), &hex::decode(&heard[1].0).expect("hex")).expect("signed by the app");
    // What is not answered well comes again.
    *receiver.refusing.lock().unwrap() = 2;
    bench.file("/again", b"1").await;
    while control.webhooks()[0].good < 3 {
        bench.clock.advance(Duration::from_secs(8)).await;
    }
    assert_eq!((receiver.heard().len(), control.webhooks()[0].calls, control.webhooks()[0].dropped), (5, 5, 0));
    control.clear_webhooks();
    bench.end();
}

#[tokio::test]
async fn a_team_app_is_told_of_members_by_team() {
    let bench = Bench::start().await;
    let control = bench.control();
    let admin = control.add_account("ada@example.com", "Ada", "Example", Some("Team"));
    control.revoke(None);
    let login = control.issue_team(&admin).expect("a team grant");
    let receiver = Receiver::default();
    control.register_webhook(None, &receiver.start().await).await.expect("it echoes");
    let member = control.member_id(&admin).expect("a member");
    let seed = serde_json::from_value(json!({ "account_id": admin, "files": [{ "path": "/a", "text": "x" }] }));
    control.seed(&seed.expect("a seed")).expect("seeded");
    until("a call", || !receiver.heard().is_empty()).await;
    let named = receiver.heard()[0].1["list_folder"]["teams"].clone();
    let (team, members) = named.as_object().expect("teams").iter().next().expect("one");
    assert!(team.starts_with("dbtid:") && *members == json!([member]), "{named} {login:?}");
    bench.end();
}
