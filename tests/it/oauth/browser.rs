//! The connect page as a person uses it: a real Chromium, driven by WebDriver, against the emulator's consent page.
//! Set `DROPBOX_CONNECTOR_PICTURES` to a folder to keep pictures of every step.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::*;
use crate::support::{process::tool, until};

/// A Chromium of its own, without a screen; ends with the test.
struct Chromium {
    driver: Child,
    http: reqwest::Client,
    session: String,
    pictures: Option<PathBuf>,
}

impl Chromium {
    async fn start() -> Chromium {
        let port = crate::support::postgres::free_port();
        let mut command = tool("chromedriver");
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        // With every process of the browser it starts, so that all of them can be ended.
        let driver = command.process_group(0).spawn().expect("chromedriver starts");
        let (http, base) = (reqwest::Client::new(), format!("http://127.0.0.1:{port}"));
        until("chromedriver answers", async || http.get(format!("{base}/status")).send().await.is_ok()).await;
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,800"];
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let said: Value = http
            .post(format!("{base}/session"))
            .json(&wanted)
            .send()
            .await
            .expect("answered")
            .json()
            .await
            .expect("JSON");
        let id = said["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {said}"));
        let pictures = std::env::var_os("DROPBOX_CONNECTOR_PICTURES").map(PathBuf::from);
        Chromium { driver, session: format!("{base}/session/{id}"), http, pictures }
    }

    async fn call(&self, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/{path}", self.session);
        let request = match body {
            Some(body) => self.http.post(url).json(&body),
            None => self.http.get(url),
        };
        let said: Value = request.send().await.expect("answered").json().await.expect("JSON");
        assert!(said["value"]["error"].is_null(), "{path}: {said}");
        said["value"].clone()
    }

    async fn open(&self, url: &str) {
        self.call("url", Some(json!({ "url": url }))).await;
    }

    async fn url(&self) -> String {
        self.call("url", None).await.as_str().expect("an address").to_owned()
    }

    async fn run(&self, script: &str) -> Value {
        self.call("execute/sync", Some(json!({ "script": script, "args": [] }))).await
    }

    async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Clicks what matches and waits until the page shows `then`.
    async fn click(&self, css: &str, then: &str) {
        let found = self.call("element", Some(json!({ "using": "css selector", "value": css }))).await;
        let id =
            found.as_object().and_then(|object| object.values().next()).and_then(Value::as_str).expect("an element");
        self.call(&format!("element/{id}/click"), Some(json!({}))).await;
        until(then, async || self.text().await.contains(then)).await;
    }

    async fn picture(&self, name: &str) {
        let Some(folder) = &self.pictures else { return };
        let data = self.call("screenshot", None).await;
        let bytes = BASE64_STANDARD.decode(data.as_str().expect("base64")).expect("base64");
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("written");
    }

    /// What every page must be: one heading, a language, a title, named controls, and no complaint of the browser.
    async fn is_accessible(&self) {
        let wrong = self
            .run(
                "const wrong = [];
                 if (document.documentElement.lang !== 'en') wrong.push('no language');
                 if (!document.title) wrong.push('no title');
                 if (document.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
                 if (!document.querySelector('main')) wrong.push('no main');
                 for (const control of document.querySelectorAll('button, a, input:not([type=hidden])'))
                     if (!(control.getAttribute('aria-label') || control.innerText || '').trim()) wrong.push(control.outerHTML);
                 for (const cell of document.querySelectorAll('th')) if (!cell.scope) wrong.push('th without scope');
                 if (document.querySelector('script')) wrong.push('a script');
                 if (getComputedStyle(document.body).margin !== '0px') wrong.push('no style');
                 return wrong;",
            )
            .await;
        assert_eq!(wrong, json!([]), "{}", self.url().await);
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The driver leaves its browser behind; the group is both.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.driver.id())]).status();
        let _ = self.driver.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_connects_tests_reconnects_and_disconnects_an_account() {
    let house = start_bare(Default::default(), |config| config.connect_page = true).await;
    create(&house, PARAMETER, |parameter| {
        parameter.display_name = "Customer files".into();
        parameter.group = "Sales".into();
    })
    .await;
    create(&house, "archive", |parameter| parameter.display_name = "Archive".into()).await;
    let chromium = Chromium::start().await;
    let list_url = format!("http://localhost:{}/connect", house.addresses.http.port());
    chromium.open(&list_url).await;
    chromium.is_accessible().await;
    chromium.picture("1-list").await;
    let connect = format!("form[action='/connect/{PARAMETER}/connect'] button");

    // No is no.
    chromium.click(&connect, "would like to").await;
    assert!(chromium.url().await.starts_with(&house.emulator.addresses().www), "{}", chromium.url().await);
    chromium.picture("2-consent").await;
    chromium.click("button[value=deny]", "Access was not granted").await;
    chromium.is_accessible().await;
    chromium.picture("3-denied").await;
    assert_eq!(state(&house).await, pb::ParameterState::Pending);

    // Yes is yes.
    chromium.click("a[href='/connect']", "Connected accounts").await;
    chromium.click(&connect, "would like to").await;
    chromium.click("button[value=approve]", "Account connected").await;
    chromium.is_accessible().await;
    chromium.picture("4-connected").await;
    assert_eq!(state(&house).await, pb::ParameterState::Active);
    list(&house).await.expect("works");

    chromium.click("a[href='/connect']", "Connected accounts").await;
    assert!(chromium.text().await.contains("Reconnect"));
    chromium.picture("5-list-connected").await;
    chromium.click(&format!("form[action='/connect/{PARAMETER}/test'] button"), "The test went well").await;
    chromium.is_accessible().await;
    chromium.picture("6-tested").await;

    // Dropbox loses the grant; the page shows it, and the account is connected again.
    house.control().revoke(None);
    list(&house).await.expect_err("lost");
    chromium.open(&list_url).await;
    assert!(chromium.text().await.contains("Reconnect needed"));
    chromium.picture("7-lost").await;
    chromium.click(&connect, "would like to").await;
    chromium.click("button[value=approve]", "Account connected").await;
    list(&house).await.expect("works again");

    // Another account is not taken for this one.
    let other = house.control().add_account("other@example.com", "Olga", "Other", None);
    house.control().sign_in(Some(&other)).expect("an account");
    chromium.open(&list_url).await;
    chromium.click(&connect, "would like to").await;
    chromium.click("button[value=approve]", "This is another Dropbox account").await;
    chromium.is_accessible().await;
    chromium.picture("8-mismatch").await;

    chromium.open(&list_url).await;
    chromium.click(&format!("a[href='/connect/{PARAMETER}/disconnect']"), "Disconnect Customer files?").await;
    chromium.is_accessible().await;
    chromium.picture("9-ask-disconnect").await;
    chromium.click("button.danger", "Account disconnected").await;
    chromium.picture("10-disconnected").await;
    assert_eq!(state(&house).await, pb::ParameterState::Pending);

    // Narrow as a telephone, nothing sticks out.
    chromium.call("window/rect", Some(json!({ "width": 500, "height": 900 }))).await;
    chromium.open(&list_url).await;
    chromium.picture("11-narrow").await;
    let sticks_out = chromium.run("return document.documentElement.scrollWidth > window.innerWidth").await;
    assert_eq!(sticks_out, json!(false));
}
