//! Listings: pages and their tokens, walks and theirs, filters, and what makes either fail.

use std::{collections::BTreeSet, time::Duration, time::Instant};

use dropbox_connector::{
    api::v1::{
        self as pb, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient, walk_folder_response::Payload,
    },
    emulator::{
        Emulator,
        control::{Generate, Seed, SeedFile},
    },
};
use prost::Message as _;
use tonic::{Code, Status};

use crate::support::{House, PARAMETER, make_parameter, process::Served, reason, start};

fn folder(path: &str) -> pb::ListFolderRequest {
    pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() }
}

async fn list(house: &House, request: &pb::ListFolderRequest) -> Result<pb::ListFolderResponse, Status> {
    house.client().list_folder(request.clone()).await.map(tonic::Response::into_inner)
}

/// Every page to the end.
async fn pages(house: &House, mut request: pb::ListFolderRequest) -> Vec<pb::ListFolderResponse> {
    let mut pages = Vec::new();
    loop {
        let page = list(house, &request).await.expect("a page");
        request.page_token = page.next_page_token.clone();
        pages.push(page);
        if request.page_token.is_empty() {
            return pages;
        }
        assert!(pages.len() < 10_000, "the listing never ends");
    }
}

fn names<'a>(pages: impl IntoIterator<Item = &'a pb::ListFolderResponse>) -> Vec<String> {
    pages.into_iter().flat_map(|page| &page.items).map(|item| item.name.clone()).collect()
}

fn seed(house: &House, seed: &Seed) {
    house.control().seed(seed).expect("a sound seed");
}

fn many(folder: &str, files: u64, bytes: u64, per_folder: Option<u64>) -> Seed {
    Seed { generate: Some(Generate { folder: folder.into(), files, bytes, per_folder }), ..Seed::default() }
}

#[tokio::test]
async fn a_page_token_belongs_to_its_parameter_its_rpc_and_its_arguments() {
    let house = start().await;
    seed(&house, &many("/p", 7, 1, None));
    house.make_parameter("other", |_| {}).await;
    let first = pb::ListFolderRequest { page_size: 2, ..folder("/p") };
    let token = list(&house, &first).await.expect("page").next_page_token;
    let with = |edit: &dyn Fn(&mut pb::ListFolderRequest)| {
        let mut request = pb::ListFolderRequest { page_token: token.clone(), ..first.clone() };
        edit(&mut request);
        request
    };
    let mut flipped = token.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("ascii");
    let cases: [(&str, pb::ListFolderRequest, Code, &str); 6] = [
        ("another path", with(&|r| r.path = "/".into()), Code::InvalidArgument, "PAGE_TOKEN_MISMATCH"),
        ("another flag", with(&|r| r.recursive = true), Code::InvalidArgument, "PAGE_TOKEN_MISMATCH"),
        (
            "another parameter",
            with(&|r| r.application_parameter_id = "other".into()),
            Code::PermissionDenied,
            "HANDLE_NOT_YOURS",
        ),
        ("one byte flipped", with(&|r| r.page_token = flipped.clone()), Code::InvalidArgument, "HANDLE_MALFORMED"),
        ("cut", with(&|r| r.page_token.truncate(20)), Code::InvalidArgument, "HANDLE_MALFORMED"),
        ("10 KiB of it", with(&|r| r.page_token = "A".repeat(10_240)), Code::InvalidArgument, "HANDLE_MALFORMED"),
    ];
    for (what, request, code, wanted) in cases {
        let refused = list(&house, &request).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, wanted), "{what}");
    }
    let walk = pb::WalkFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/p".into(),
        continue_token: token.clone(),
        ..Default::default()
    };
    let refused = house.client().walk_folder(walk).await.expect_err("of another RPC");
    assert_eq!(reason(&refused), "HANDLE_MALFORMED");
    // Only a hint: it may change between pages.
    let rest = list(&house, &with(&|r| r.page_size = 500)).await.expect("the rest");
    assert!(!rest.items.is_empty());
}

#[tokio::test]
async fn a_parameter_made_anew_does_not_take_the_tokens_of_its_namesake() {
    let house = start().await;
    seed(&house, &many("/p", 5, 1, None));
    let first = pb::ListFolderRequest { page_size: 2, ..folder("/p") };
    let token = list(&house, &first).await.expect("page").next_page_token;
    let delete =
        pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    house.admin().await.delete_application_parameter(delete).await.expect("deleted");
    house.make_parameter(PARAMETER, |_| {}).await;
    let refused = list(&house, &pb::ListFolderRequest { page_token: token, ..first }).await.expect_err("not its own");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "HANDLE_NOT_YOURS"));
}

#[tokio::test]
async fn absurd_page_sizes_are_cut_and_negative_ones_refused() {
    let house = start().await;
    seed(&house, &many("/p", 30, 1, None));
    for page_size in [i32::MAX, 100_000, 2001] {
        let page = list(&house, &pb::ListFolderRequest { page_size, ..folder("/p") }).await.expect("a page");
        assert_eq!(page.items.len(), 30);
    }
    let asked: Vec<_> =
        house.control().journal().into_iter().filter(|entry| entry.route == "files/list_folder").collect();
    assert!(asked.iter().all(|entry| entry.arg["limit"] == 2000), "{asked:?}");
    let refused = list(&house, &pb::ListFolderRequest { page_size: -1, ..folder("/p") }).await.expect_err("negative");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let search = pb::SearchItemsRequest {
        application_parameter_id: PARAMETER.into(),
        query: "x".into(),
        page_size: i32::MIN,
        ..Default::default()
    };
    assert_eq!(reason(&house.client().search_items(search).await.expect_err("negative")), "INVALID_FIELD");
}

#[tokio::test]
async fn no_page_exceeds_three_mebibytes_and_none_of_its_items_is_lost() {
    let house = start().await;
    // Paths of almost 2 KiB stand twice in every item.
    let deep = format!("/{}", vec!["d".repeat(240); 6].join("/"));
    let files = (0..1500).map(|n| SeedFile::bytes(&format!("{deep}/{n:04}{}", "n".repeat(200)), 1)).collect();
    seed(&house, &Seed { files, ..Seed::default() });
    let pages = pages(&house, pb::ListFolderRequest { page_size: 2000, ..folder(&deep) }).await;
    assert!(pages.len() > 1, "one page would be too large");
    for page in &pages {
        assert!(page.encoded_len() <= 3 * 1024 * 1024, "{} bytes", page.encoded_len());
    }
    let names = names(&pages);
    assert_eq!((names.len(), names.iter().collect::<BTreeSet<_>>().len()), (1500, 1500));
}

#[tokio::test]
async fn pages_that_a_filter_empties_still_lead_to_the_end() {
    let house = start().await;
    seed(&house, &many("/p", 40, 1, None));
    seed(&house, &Seed { files: vec![SeedFile::text("/p/zzz.txt", "found")], ..Seed::default() });
    let filter = pb::ItemFilter { include_globs: vec!["*.TXT".into()], ..Default::default() };
    let pages = pages(&house, pb::ListFolderRequest { page_size: 5, filter: Some(filter), ..folder("/p") }).await;
    assert!(pages.len() > 5);
    assert_eq!(names(&pages), ["zzz.txt"]);
}

#[tokio::test]
async fn filters_choose_by_name_kind_size_and_depth() {
    let house = start().await;
    let files = [("/t/a.TMP", 5), ("/t/b.pdf", 50), ("/t/sub/c.tmp", 500), ("/t/sub/deep/d.pdf", 5000)];
    let files = files.map(|(path, bytes)| SeedFile::bytes(path, bytes)).to_vec();
    seed(&house, &Seed { files, ..Seed::default() });
    let cases: [(&str, pb::ItemFilter, &[&str]); 9] = [
        ("a star stops at a slash", globs(&["*.tmp"]), &["a.TMP"]),
        ("two stars cross it", globs(&["**/*.tmp"]), &["a.TMP", "c.tmp"]),
        ("alternatives", globs(&["**/*.{pdf,txt}"]), &["b.pdf", "d.pdf"]),
        ("case where it is wanted", pb::ItemFilter { case_sensitive: true, ..globs(&["**/*.tmp"]) }, &["c.tmp"]),
        (
            "left out",
            pb::ItemFilter { exclude_globs: vec!["**/*.pdf".into(), "**/*.tmp".into()], ..Default::default() },
            &["deep", "sub"],
        ),
        (
            "folders",
            pb::ItemFilter { kinds: vec![pb::ItemKind::Folder.into()], ..Default::default() },
            &["deep", "sub"],
        ),
        (
            "bounds are inclusive",
            pb::ItemFilter { min_size: Some(50), max_size: Some(500), ..Default::default() },
            &["b.pdf", "c.tmp"],
        ),
        ("depth", pb::ItemFilter { max_depth: 1, ..Default::default() }, &["a.TMP", "b.pdf", "sub"]),
        (
            "any bound",
            pb::ItemFilter {
                min_size: Some(5000),
                max_size: Some(5),
                bounds: pb::Bounds::Any.into(),
                ..Default::default()
            },
            &["a.TMP", "d.pdf"],
        ),
    ];
    for (what, filter, wanted) in cases {
        let request = pb::ListFolderRequest { recursive: true, filter: Some(filter), ..folder("/t") };
        let mut found = names(&pages(&house, request).await);
        found.retain(|name| name != "t");
        found.sort();
        assert_eq!(found, wanted, "{what}");
    }
    let many = globs(&["*"; 33]);
    let long = globs(&[&"x".repeat(1025)]);
    let crossed = pb::ItemFilter { min_size: Some(-1), ..Default::default() };
    for (what, filter) in
        [("33 globs", many), ("a long one", long), ("a negative size", crossed), ("no pattern", globs(&["["]))]
    {
        let request = pb::ListFolderRequest { filter: Some(filter), ..folder("/t") };
        let refused = list(&house, &request).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{what}");
    }
}

fn globs(globs: &[&str]) -> pb::ItemFilter {
    pb::ItemFilter { include_globs: globs.iter().map(|glob| (*glob).to_owned()).collect(), ..Default::default() }
}

fn walk(path: &str) -> pb::WalkFolderRequest {
    pb::WalkFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: path.into(),
        recursive: true,
        ..Default::default()
    }
}

/// What a walk told: its batches, and its summary if it came to its end.
async fn walked(
    house: &House,
    request: pb::WalkFolderRequest,
) -> Result<(Vec<pb::WalkBatch>, pb::WalkSummary), Status> {
    let mut stream = house.client().walk_folder(request).await?.into_inner();
    let (mut batches, mut summary) = (Vec::new(), None);
    while let Some(message) = stream.message().await? {
        assert!(message.encoded_len() <= 1024 * 1024, "a batch of {} bytes", message.encoded_len());
        match message.payload.expect("a payload") {
            Payload::Batch(batch) => {
                assert!(summary.is_none(), "the summary is last");
                assert!(batch.items.len() <= 500);
                batches.push(batch);
            }
            Payload::Summary(last) => summary = Some(last),
        }
    }
    Ok((batches, summary.expect("a walk that ends well has a summary")))
}

fn paths(batches: &[pb::WalkBatch]) -> Vec<String> {
    batches.iter().flat_map(|batch| &batch.items).map(|item| item.path_lower.clone()).collect()
}

#[tokio::test]
async fn a_walk_of_five_thousand_goes_on_behind_any_batch_without_loss() {
    let house = start().await;
    seed(&house, &many("/w", 5000, 2, Some(100)));
    let (batches, summary) = walked(&house, walk("/w")).await.expect("a walk");
    let all = paths(&batches);
    assert_eq!(summary.count as usize, all.len());
    assert_eq!(summary.bytes, 10_000);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "nothing is told twice");
    assert!(all.len() >= 5050 && batches.len() > 10);
    for cut in [0, 3, batches.len() - 1] {
        let rest = pb::WalkFolderRequest { continue_token: batches[cut].continue_token.clone(), ..walk("/w") };
        let (rest, _) = walked(&house, rest).await.expect("the rest");
        let mut together = paths(&batches[..=cut]);
        together.extend(paths(&rest));
        assert_eq!(together, all, "behind batch {cut}");
    }
    let few = pb::WalkFolderRequest { max_items: 7, ..walk("/w") };
    let (batches, summary) = walked(&house, few).await.expect("a short walk");
    assert_eq!((paths(&batches).len(), summary.count), (7, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_of_a_hundred_thousand_tells_its_first_batch_within_a_second_and_stays_small() {
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    emulator.control().seed(&many("/w", 100_000, 0, Some(1000))).expect("a seed");
    // A process of its own: its memory is nobody else's.
    let mut served = tokio::task::block_in_place(|| Served::before(&emulator, &[]));
    let (data, admin) = tokio::task::block_in_place(|| (served.told("data"), served.told("admin")));
    let mut boss = DropboxAdminConnectorClient::connect(format!("http://{admin}")).await.expect("connect");
    make_parameter(&mut boss, &emulator.account(), PARAMETER, |_| {}).await;
    let mut client = DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect");
    let mut few = client.walk_folder(walk("/w/000")).await.expect("a walk").into_inner();
    while few.message().await.expect("a message").is_some() {}

    let before = served.resident();
    let begun = Instant::now();
    let mut stream = client.walk_folder(walk("/w")).await.expect("a walk").into_inner();
    let (mut count, mut firsts, mut most) = (0, Vec::new(), before);
    while let Some(message) = stream.message().await.expect("a message") {
        if firsts.is_empty() {
            firsts.push(begun.elapsed());
        }
        if let Some(Payload::Batch(batch)) = message.payload {
            count += batch.items.len();
        }
        most = most.max(served.resident());
    }
    assert!((100_100..=100_101).contains(&count), "{count} items");
    assert!(most - before < 50 * 1024 * 1024, "{} bytes more", most - before);
    // What else the machine does can only add to a time.
    while firsts.last().is_some_and(|first| *first >= Duration::from_secs(1)) && firsts.len() < 5 {
        let begun = Instant::now();
        let mut stream = client.walk_folder(walk("/w")).await.expect("a walk").into_inner();
        assert!(stream.message().await.expect("a message").is_some());
        firsts.push(begun.elapsed());
    }
    assert!(firsts.last().expect("a batch") < &Duration::from_secs(1), "{firsts:?}");
}

#[tokio::test]
async fn a_sorted_walk_is_bounded_and_in_order() {
    let house = start().await;
    let files = (1..=20).map(|n| SeedFile::bytes(&format!("/s/{:02}.bin", (n * 7) % 20), n)).collect();
    seed(&house, &Seed { files, ..Seed::default() });
    let by_name = pb::WalkFolderRequest { order_by: pb::ItemOrderBy::Name.into(), max_items: 5, ..walk("/s") };
    let filter = pb::ItemFilter { kinds: vec![pb::ItemKind::File.into()], ..Default::default() };
    let by_name = pb::WalkFolderRequest { filter: Some(filter), ..by_name };
    let (batches, summary) = walked(&house, by_name.clone()).await.expect("sorted");
    assert_eq!(paths(&batches), (0..5).map(|n| format!("/s/{n:02}.bin")).collect::<Vec<_>>());
    assert_eq!(summary.count, 5);
    for max_items in [0, 10_001, -1] {
        let refused = walked(&house, pb::WalkFolderRequest { max_items, ..by_name.clone() }).await.expect_err("bounds");
        assert_eq!(reason(&refused), "INVALID_FIELD", "{max_items}");
    }
}

#[tokio::test]
async fn a_cursor_that_dropbox_resets_ends_page_and_walk_with_an_error() {
    let house = start().await;
    seed(&house, &many("/p", 12, 1, None));
    let first = pb::ListFolderRequest { page_size: 2, ..folder("/p") };
    let token = list(&house, &first).await.expect("page").next_page_token;
    let (batches, _) = walked(&house, walk("/p")).await.expect("a walk");
    house.control().reset_cursors();
    let refused = list(&house, &pb::ListFolderRequest { page_token: token, ..first }).await.expect_err("reset");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "CURSOR_RESET"));
    let rest = pb::WalkFolderRequest { continue_token: batches[0].continue_token.clone(), ..walk("/p") };
    let refused = walked(&house, rest).await.expect_err("reset");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "CURSOR_RESET"));
    let missing = walked(&house, walk("/nowhere")).await.expect_err("nothing there");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "PATH_NOT_FOUND"));
}

#[tokio::test]
async fn searches_page_through_all_matches_and_refuse_long_queries() {
    let house = start().await;
    let files = (0..25).map(|n| SeedFile::text(&format!("/s/needle {n}.txt"), "x")).collect();
    seed(&house, &Seed { files, ..Seed::default() });
    let mut request = pb::SearchItemsRequest {
        application_parameter_id: PARAMETER.into(),
        query: "needle".into(),
        page_size: 10,
        ..Default::default()
    };
    let mut found = BTreeSet::new();
    loop {
        let page = house.client().search_items(request.clone()).await.expect("a page").into_inner();
        found.extend(page.matches.into_iter().map(|found| found.item.expect("an item").path_lower));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(found.len(), 25);
    let other = pb::SearchItemsRequest { query: "haystack".into(), ..request.clone() };
    assert_eq!(reason(&house.client().search_items(other).await.expect_err("another query")), "PAGE_TOKEN_MISMATCH");
    for query in [String::new(), "x".repeat(1001)] {
        let request = pb::SearchItemsRequest { query, page_token: String::new(), ..request.clone() };
        let refused = house.client().search_items(request).await.expect_err("too short or too long");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
