//! The way out of each application parameter: real proxies, their credentials, the three timeouts.

use std::time::{Duration, Instant};

use dropbox_connector::{
    api::v1 as pb,
    emulator::{
        Options,
        script::{Action, Rule},
    },
};
use tonic::{Code, Request, Status};

use crate::support::{
    House, PARAMETER, fact, frames,
    postgres::free_port,
    process::Served,
    proxies::{Answerer, Authority, Running, proxy},
    reason, requests, retry_delay, source, spec, start, start_bare, start_with, until,
};

const HTTP: pb::ProxyKind = pb::ProxyKind::Http;
const SOCKS5: pb::ProxyKind = pb::ProxyKind::Socks5;

/// What a proxy's password may look like. No byte is special to us.
const NASTY: &str = "p@:/%#?&=+ \"'\\%41é雪";

fn timed<T>(message: T, span: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(span);
    request
}

async fn list(house: &House, id: &str) -> Result<pb::ListFolderResponse, Status> {
    let request = pb::ListFolderRequest { application_parameter_id: id.into(), ..Default::default() };
    // Behind a proxy that is gone the renewal of a token is tried again for some seconds.
    house.client().list_folder(timed(request, Duration::from_secs(20))).await.map(tonic::Response::into_inner)
}

async fn set_proxy(house: &House, id: &str, proxy: pb::Proxy) {
    change(house, id, &["proxy"], |parameter| parameter.proxy = Some(proxy)).await.expect("taken");
}

async fn change(
    house: &House,
    id: &str,
    paths: &[&str],
    edit: impl FnOnce(&mut pb::ApplicationParameter),
) -> Result<pb::ApplicationParameter, Status> {
    let mut parameter = pb::ApplicationParameter { application_parameter_id: id.into(), ..Default::default() };
    edit(&mut parameter);
    let request = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(parameter),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..Default::default()
    };
    let answer = house.admin().await.update_application_parameter(request).await?.into_inner();
    Ok(answer.application_parameter.expect("a parameter"))
}

/// Upload, listing, download, a renewed token: API and content hosts and the token endpoint.
async fn everything_works(house: &House, id: &str) {
    let path = format!("/{id}.txt");
    let mut messages = requests(frames(spec(&path), b"by another way"));
    messages[0].application_parameter_id = id.into();
    house.client().upload_file(tokio_stream::iter(messages)).await.expect("upload");
    house.control().expire_access_tokens();
    assert!(!list(house, id).await.expect("listed").items.is_empty());
    let request = pb::DownloadFileRequest {
        application_parameter_id: id.into(),
        source: Some(source(&path)),
        ..Default::default()
    };
    let downloaded = crate::support::download_with(house, request).await.expect("download");
    assert_eq!(downloaded.bytes, b"by another way");
}

async fn tested(house: &House, id: &str) -> Result<pb::TestApplicationParameterResponse, Status> {
    let request = pb::TestApplicationParameterRequest { application_parameter_id: id.into() };
    let request = timed(request, Duration::from_secs(5));
    house.admin().await.test_application_parameter(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_parameters_go_through_two_proxies_and_a_third_goes_straight() {
    let house = start().await;
    let mut http = Running::tinyproxy(Some(("httpuser", "httppassword")));
    let mut socks = Running::microsocks("socksuser", NASTY);
    house
        .make_parameter("http", |parameter| {
            parameter.proxy = Some(proxy(HTTP, http.port, "httpuser", "httppassword"));
        })
        .await;
    house
        .make_parameter("socks", |parameter| parameter.proxy = Some(proxy(SOCKS5, socks.port, "socksuser", NASTY)))
        .await;
    for (id, told) in [
        (PARAMETER, String::new()),
        ("http", format!("http://127.0.0.1:{}", http.port)),
        ("socks", format!("socks5://127.0.0.1:{}", socks.port)),
    ] {
        everything_works(&house, id).await;
        assert_eq!(tested(&house, id).await.expect("works").proxy, told);
    }
    let log = http.log();
    for wanted in ["/oauth2/token", "/2/users/get_current_account", "/2/files/list_folder", "/2/files/download"] {
        assert!(log.contains(wanted), "no {wanted} in:\n{log}");
    }
    let get = pb::GetApplicationParameterRequest { application_parameter_id: "http".into() };
    let told = house
        .admin()
        .await
        .get_application_parameter(get)
        .await
        .expect("told")
        .into_inner()
        .application_parameter
        .expect("a parameter");
    let shown = told.proxy.expect("a proxy");
    assert_eq!((shown.username.as_str(), shown.password.as_str()), ("httpuser", ""), "the password stays inside");

    // Each depends on its own proxy alone; there is no way round it.
    http.stop();
    let status = list(&house, "http").await.expect_err("its proxy is gone");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "PROXY_UNAVAILABLE"), "{status:?}");
    assert!(retry_delay(&status).is_some() && status.message().contains(&http.port.to_string()), "{status:?}");
    list(&house, "socks").await.expect("it has another proxy");
    socks.stop();
    let status = list(&house, "socks").await.expect_err("its proxy is gone");
    assert_eq!(reason(&status), "PROXY_UNAVAILABLE", "{status:?}");
    house.control().expire_access_tokens();
    let status = list(&house, "socks").await.expect_err("nor does a renewal go round it");
    assert_eq!(reason(&status), "PROXY_UNAVAILABLE", "{status:?}");
    list(&house, PARAMETER).await.expect("it has none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_proxy_holds_with_the_next_call_and_a_kept_password_goes_to_no_other() {
    let house = start().await;
    let (first, second) = (Running::tinyproxy(Some(("me", "secret1"))), Running::tinyproxy(Some(("me", "secret1"))));
    set_proxy(&house, PARAMETER, proxy(HTTP, first.port, "me", "secret1")).await;
    list(&house, PARAMETER).await.expect("through the first");
    let before = first.log().len();
    let to = |port: u16, password: &str| {
        let proxy = pb::Proxy { port: port.into(), password: password.into(), ..Default::default() };
        move |parameter: &mut pb::ApplicationParameter| parameter.proxy = Some(proxy)
    };
    let refused = change(&house, PARAMETER, &["proxy.port"], to(second.port, "")).await.expect_err("to another place");
    let details = tonic_types::StatusExt::get_error_details(&refused);
    assert_eq!(
        details.bad_request().expect("fields").field_violations[0].field,
        "application_parameter.proxy.password"
    );
    assert!(refused.message().contains("say it again"), "{refused:?}");
    list(&house, PARAMETER).await.expect("through the first, as before");
    assert!(second.log().is_empty() || !second.log().contains("list_folder"), "{}", second.log());
    change(&house, PARAMETER, &["proxy.port", "proxy.password"], to(second.port, "secret1")).await.expect("changed");
    let before = before.max(first.log().len());
    list(&house, PARAMETER).await.expect("through the second, with the password said again");
    assert!(second.log().contains("/2/files/list_folder"));
    assert_eq!(first.log().len(), before, "nothing goes the old way");
    change(&house, PARAMETER, &["proxy.password"], |_| {}).await.expect("removed");
    let status = list(&house, PARAMETER).await.expect_err("without the password");
    assert_eq!(reason(&status), "PROXY_AUTH_REQUIRED");
    change(&house, PARAMETER, &["proxy"], |_| {}).await.expect("no proxy at all");
    list(&house, PARAMETER).await.expect("straight");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_refuses_is_told_with_its_remedy_and_without_the_password() {
    let house = start().await;
    list(&house, PARAMETER).await.expect("works");
    let (http, socks) = (Running::tinyproxy(Some(("me", "right"))), Running::microsocks("me", "right"));
    let ntlm = Answerer::start(
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: \
         NTLM\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .await;
    let strange = Answerer::start("220 mail.example ESMTP\r\n").await;
    let closed = free_port();
    let required = (Code::FailedPrecondition, "PROXY_AUTH_REQUIRED");
    let unsupported = (Code::FailedPrecondition, "PROXY_AUTH_UNSUPPORTED");
    let unavailable = (Code::Unavailable, "PROXY_UNAVAILABLE");
    for (proxy, (code, wanted)) in [
        (proxy(HTTP, http.port, "me", "hush-wrong"), required),
        (proxy(HTTP, http.port, "", ""), required),
        (proxy(SOCKS5, socks.port, "me", "hush-wrong"), required),
        (proxy(SOCKS5, socks.port, "", ""), required),
        (proxy(HTTP, ntlm.port, "me", "hush-wrong"), unsupported),
        (proxy(HTTP, closed, "me", "hush-wrong"), unavailable),
        (proxy(SOCKS5, closed, "me", "hush-wrong"), unavailable),
        (proxy(pb::ProxyKind::Socks4, closed, "", ""), unavailable),
        (proxy(SOCKS5, strange.port, "", ""), unavailable),
        (proxy(pb::ProxyKind::Socks4, strange.port, "", ""), unavailable),
    ] {
        let told = format!("{:?} {}", proxy.proxy_kind(), proxy.port);
        set_proxy(&house, PARAMETER, proxy).await;
        let began = Instant::now();
        for status in
            [list(&house, PARAMETER).await.expect_err("refused"), tested(&house, PARAMETER).await.expect_err("refused")]
        {
            assert_eq!((status.code(), reason(&status).as_str()), (code, wanted), "{told}: {status:?}");
            assert_eq!(retry_delay(&status).is_some(), code == Code::Unavailable, "{told}: {status:?}");
            assert!(fact(&status, "remedy").is_some() || retry_delay(&status).is_some(), "{told}: {status:?}");
            assert!(!format!("{status:?}").contains("hush"), "{told}: {status:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{told}");
    }
    // A renewal is refused for the same reason.
    house.control().expire_access_tokens();
    set_proxy(&house, PARAMETER, proxy(HTTP, ntlm.port, "me", "hush-wrong")).await;
    let status = list(&house, PARAMETER).await.expect_err("no token");
    assert_eq!(reason(&status), "PROXY_AUTH_UNSUPPORTED", "{status:?}");
    set_proxy(&house, PARAMETER, proxy(HTTP, http.port, "me", "right")).await;
    list(&house, PARAMETER).await.expect("mended; the grant was not blamed");
}

/// A house whose Dropbox speaks TLS by a CA of the company's own.
async fn secure_house(authority: &Authority, trusted: bool) -> (House, [crate::support::proxies::TlsFront; 2]) {
    let emulator = dropbox_connector::emulator::Emulator::start(Options::default()).await.expect("emulator");
    let at = emulator.addresses().clone();
    let fronts = [authority.front_of(&at.api).await, authority.front_of(&at.content).await];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &authority.pem).expect("written");
    let mut house = start_bare(Options::default(), |config| {
        config.allow_insecure_upstream = false;
        config.dropbox_api_url = fronts[0].url();
        config.dropbox_content_url = fronts[1].url();
        config.dropbox_notify_url = fronts[0].url();
        config.dropbox_oauth_url = fronts[0].url();
        if trusted {
            config.upstream_ca_file = file;
        }
    })
    .await;
    house.emulator = emulator;
    (house, fronts)
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_through_every_kind_of_proxy_and_by_a_ca_of_ones_own() {
    let authority = Authority::new();
    let (house, fronts) = secure_house(&authority, true).await;
    let http = Running::tinyproxy(Some(("me", "right")));
    let (any, socks, old) = (Running::proxy_py("CORP\\me", NASTY), Running::microsocks("me", NASTY), Running::dante());
    let over_tls = authority.front(([127, 0, 0, 1], http.port).into()).await;
    let with_domain = pb::Proxy { domain: "CORP".into(), ..proxy(HTTP, any.port, "me", NASTY) };
    for (id, proxy) in [
        ("http", proxy(HTTP, http.port, "me", "right")),
        ("any", with_domain),
        ("socks5", proxy(SOCKS5, socks.port, "me", NASTY)),
        ("socks4", proxy(pb::ProxyKind::Socks4, old.port, "", "")),
        ("https", proxy(pb::ProxyKind::Https, over_tls.port(), "me", "right")),
    ] {
        house.make_parameter(id, |parameter| parameter.proxy = Some(proxy)).await;
        everything_works(&house, id).await;
    }
    let log = http.log();
    for front in &fronts {
        assert!(log.contains(&format!("CONNECT 127.0.0.1:{}", front.port())), "a tunnel to each host:\n{log}");
    }
    assert!(!log.contains("oauth2"), "the proxy sees where to, and nothing else:\n{log}");

    // The refusals of a tunnel are told as those of a forwarding proxy are.
    let ntlm = Answerer::start("HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM, Negotiate\r\n\r\n").await;
    let forbidding = Answerer::start("HTTP/1.1 403 Forbidden\r\n\r\n").await;
    for (proxy, wanted) in [
        (proxy(HTTP, http.port, "me", "hush-wrong"), "PROXY_AUTH_REQUIRED"),
        (proxy(HTTP, any.port, "CORP\\me", "hush-wrong"), "PROXY_AUTH_REQUIRED"),
        (proxy(pb::ProxyKind::Https, over_tls.port(), "me", "hush-wrong"), "PROXY_AUTH_REQUIRED"),
        (proxy(HTTP, http.port, "", ""), "PROXY_AUTH_REQUIRED"),
        (proxy(HTTP, ntlm.port, "me", "hush-wrong"), "PROXY_AUTH_UNSUPPORTED"),
        (proxy(HTTP, forbidding.port, "me", "hush-wrong"), "PROXY_UNAVAILABLE"),
    ] {
        set_proxy(&house, "http", proxy).await;
        let status = list(&house, "http").await.expect_err("refused");
        assert_eq!(reason(&status), wanted, "{status:?}");
        assert!(!format!("{status:?}").contains("hush"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_says_where_to_put_its_ca() {
    let authority = Authority::new();
    let (house, _fronts) = secure_house(&authority, false).await;
    let login = house.emulator.account();
    let mut admin = house.admin().await;
    let create = pb::CreateApplicationParameterRequest {
        application_parameter_id: PARAMETER.into(),
        application_parameter: Some(pb::ApplicationParameter { app_key: login.app_key, ..Default::default() }),
    };
    admin.create_application_parameter(create).await.expect("created");
    let credential = Some(pb::import_credentials_request::Credential::RefreshToken(login.refresh_token));
    let import = pb::ImportCredentialsRequest { application_parameter_id: PARAMETER.into(), credential };
    let status = admin.import_credentials(timed(import, Duration::from_secs(5))).await.expect_err("not trusted");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DROPBOX_UNAVAILABLE"), "{status:?}");
    assert!(status.message().contains("upstream_ca_file"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_timeouts_act_per_parameter() {
    let house = start().await;
    let span = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    house.make_parameter("hasty", |_| {}).await;
    let big = crate::support::noise(3 * crate::support::MIB, 7);
    crate::support::upload(&house, spec("/big.bin"), &big).await.expect("upload");
    let timeouts = |connect, request, idle_read| pb::Timeouts { connect, request, idle_read };
    let set = async |timeouts| {
        change(&house, "hasty", &["timeouts"], |parameter| parameter.timeouts = Some(timeouts)).await.expect("set");
    };
    let late = |status: &Status, phase: &str| {
        assert_eq!(
            (status.code(), reason(status).as_str()),
            (Code::DeadlineExceeded, "UPSTREAM_TIMEOUT"),
            "{status:?}"
        );
        assert_eq!(fact(status, "phase").as_deref(), Some(phase), "{status:?}");
    };

    // request: an answer that takes a second, which the other parameter waits for.
    set(timeouts(None, span(200), None)).await;
    // Which takes longer than that at times, on a busy machine.
    let known = async || until("the root is known", async || list(&house, "hasty").await.is_ok()).await;
    known().await;
    list(&house, PARAMETER).await.expect("here too");
    house.control().script([Rule::always("files/list_folder", Action::DelayAnswer { millis: 1000 })]).expect("a rule");
    late(&list(&house, "hasty").await.expect_err("too late"), "request");
    list(&house, PARAMETER).await.expect("it waits");
    house.control().clear_script();

    // idle_read: a listing whose body stops half way.
    set(timeouts(None, None, span(200))).await;
    known().await;
    house.control().script([Rule::always("files/list_folder", Action::StallBody { after_bytes: 10 })]).expect("a rule");
    late(&list(&house, "hasty").await.expect_err("it stopped"), "idle_read");
    house.control().clear_script();

    // connect: a proxy that takes connections and says nothing, before an https Dropbox.
    let authority = Authority::new();
    let (secure, _fronts) = secure_house(&authority, true).await;
    secure.make_parameter("hasty", |_| {}).await;
    let silent = Answerer::start("").await;
    change(&secure, "hasty", &["timeouts", "proxy"], |parameter| {
        parameter.timeouts = Some(timeouts(span(300), None, None));
        parameter.proxy = Some(proxy(HTTP, silent.port, "", ""));
    })
    .await
    .expect("set");
    let began = Instant::now();
    late(&list(&secure, "hasty").await.expect_err("no tunnel"), "connect");
    assert!(began.elapsed() < Duration::from_secs(9), "less than the default of 10 s: {:?}", began.elapsed());
    // And a renewal of the token has the same patience.
    secure.control().expire_access_tokens();
    let status = list(&secure, "hasty").await.expect_err("no tunnel");
    assert_eq!(reason(&status), "UPSTREAM_TIMEOUT", "{status:?}");
}

#[tokio::test]
async fn a_proxy_that_makes_no_sense_is_refused_by_field() {
    let house = start_with(|_| {}).await;
    let cases = [
        (pb::Proxy { address: "proxy".into(), port: 1, ..Default::default() }, "proxy.proxy_kind"),
        (pb::Proxy { proxy_kind: 99, ..Default::default() }, "proxy.proxy_kind"),
        (pb::Proxy { address: "http://proxy".into(), ..proxy(HTTP, 1, "", "") }, "proxy.address"),
        (pb::Proxy { port: 0, ..proxy(HTTP, 1, "", "") }, "proxy.port"),
        (pb::Proxy { port: -1, ..proxy(HTTP, 1, "", "") }, "proxy.port"),
        (pb::Proxy { port: 70_000, ..proxy(HTTP, 1, "", "") }, "proxy.port"),
        (proxy(pb::ProxyKind::Socks4, 1, "me", ""), "proxy.username"),
        (proxy(HTTP, 1, "", "hush"), "proxy.password"),
        (proxy(SOCKS5, 1, "me", &"hush".repeat(64)), "proxy.password"),
        (proxy(HTTP, 1, "me", "hu\r\nsh"), "proxy.password"),
    ];
    for (proxy, wanted) in cases {
        let refused = change(&house, PARAMETER, &["proxy"], |parameter| parameter.proxy = Some(proxy)).await;
        let status = refused.expect_err(wanted);
        let details = tonic_types::StatusExt::get_error_details(&status);
        let fields = details.bad_request().expect("fields").field_violations.iter().map(|v| v.field.as_str());
        let fields: Vec<_> = fields.collect();
        assert!(fields.iter().any(|field| field.ends_with(wanted)), "no {wanted} in {fields:?}");
        assert!(!format!("{status:?} {details:?}").contains("hush"));
    }
    list(&house, PARAMETER).await.expect("nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_servers_environment_is_used_by_those_who_say_so() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let emulator = dropbox_connector::emulator::Emulator::start(Options::default()).await.expect("emulator");
    let http = Running::tinyproxy(Some(("me", "right")));
    let url = format!("http://me:right@127.0.0.1:{}", http.port);
    let mut served = tokio::task::block_in_place(|| Served::before_in(&emulator, &[], &[("HTTP_PROXY", &url)]));
    let admin = tokio::task::block_in_place(|| served.told("admin"));
    let mut boss = pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(format!("http://{admin}"))
        .await
        .expect("connect");
    let login = emulator.account();
    crate::support::make_parameter(&mut boss, &login, "straight", |_| {}).await;
    assert!(!http.log().contains("POST"), "the environment alone changes nothing:\n{}", http.log());
    crate::support::make_parameter(&mut boss, &login, "system", |parameter| {
        parameter.proxy = Some(pb::Proxy { proxy_kind: pb::ProxyKind::System.into(), ..Default::default() });
    })
    .await;
    assert!(http.log().contains("/oauth2/token"), "{}", http.log());
    let test = pb::TestApplicationParameterRequest { application_parameter_id: "system".into() };
    let told = boss.test_application_parameter(test).await.expect("works").into_inner();
    assert_eq!(told.proxy, format!("http://127.0.0.1:{}", http.port), "without its user");
}
