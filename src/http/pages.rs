//! What the pages look like. Everything that comes from elsewhere is escaped by the templates. Plain HTML: headings, labels,
//! tables and forms that work without a script, with a keyboard and with a screen reader.

use maud::{Markup, html};

use super::connect::STYLE_PATH;
use crate::{
    credentials::{Completed, Revoked, TestReport},
    fault::{Fault, Reason},
    page::document,
    store::{Account, AccountKind, Parameters, State},
};

/// The list and who looks at it.
pub(super) struct Listed<'a> {
    pub parameters: &'a [Parameters],
    /// Empty: all groups.
    pub group: &'a str,
    /// Id behind which the next page begins.
    pub next: Option<&'a str>,
    pub token: &'a str,
    pub callback: &'a str,
    pub principal: &'a str,
    pub read_only: bool,
}

/// What went wrong, for a person.
pub(super) struct Told<'a> {
    pub title: &'static str,
    pub fault: &'a Fault,
    /// Dropbox's own words.
    pub description: Option<&'a str>,
    /// There is a list to go back to.
    pub has_page: bool,
}

fn frame(title: &str, body: &Markup) -> Markup {
    let body = html! {
        a.skip href="#main" { "Skip to the content" }
        header { p.brand { "Dropbox connector" } }
        main #main tabindex="-1" { (body) }
    };
    document(title, Some(STYLE_PATH), &body)
}

pub(super) fn list(listed: &Listed<'_>) -> Markup {
    let title = "Connected accounts";
    frame(
        title,
        &html! {
            h1 { (title) }
            p.lead {
                "Each application parameter stands for one Dropbox account that programs may use by its name."
                @if listed.principal != "anonymous" { " You are signed in as " strong { (listed.principal) } "." }
            }
            @if listed.read_only {
                p.note role="note" {
                    "The application parameters come from a file and are read-only: accounts are connected where the file is made."
                }
            }
            @if !listed.group.is_empty() {
                p { "Group: " strong { (listed.group) } " · " a href="/connect" { "Show all groups" } }
            }
            @if listed.parameters.is_empty() {
                div.empty {
                    h2 { "Nothing here yet" }
                    p { "Make an application parameter first:" }
                    pre { code { "dropbox-connector parameters create NAME --app-key KEY --app-secret-file FILE" } }
                }
            } @else {
                div.scroll tabindex="0" role="region" aria-labelledby="caption" {
                    table {
                        caption #caption { "Application parameters and their Dropbox accounts" }
                        thead {
                            tr {
                                th scope="col" { "Name" }
                                th scope="col" { "Group" }
                                th scope="col" { "State" }
                                th scope="col" { "Account" }
                                th scope="col" { "Actions" }
                            }
                        }
                        tbody { @for one in listed.parameters { (row(one, listed)) } }
                    }
                }
            }
            @if let Some(next) = listed.next {
                p { a href=(next_page(listed.group, next)) { "Next page" } }
            }
            @if !listed.read_only {
                section.hint aria-labelledby="register" {
                    h2 #register { "Before the first account" }
                    p { "Register this redirect URI for the app in Dropbox's App Console, in exactly this form:" }
                    pre { code #redirect-uri { (listed.callback) } }
                }
            }
        },
    )
}

fn next_page(group: &str, after: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if !group.is_empty() {
        query.append_pair("group", group);
    }
    format!("/connect?{}", query.append_pair("after", after).finish())
}

fn row(one: &Parameters, listed: &Listed<'_>) -> Markup {
    let id = one.id.as_str();
    let group = &one.settings.group;
    let name = if one.settings.display_name.is_empty() { id } else { &one.settings.display_name };
    let linked = one.grant.is_some();
    html! {
        tr {
            th scope="row" data-label="Name" {
                span.name { (name) }
                @if name != id { code.id { (id) } }
            }
            td data-label="Group" {
                @if group.is_empty() { span.none { "none" } }
                @else { a href={ "/connect?" (url::form_urlencoded::Serializer::new(String::new()).append_pair("group", group).finish()) } { (group) } }
            }
            td data-label="State" { (badge(one)) }
            td data-label="Account" { (account(one)) }
            td data-label="Actions" {
                div.actions {
                    @if !listed.read_only {
                        form method="post" action={ "/connect/" (id) "/connect" } {
                            input type="hidden" name="token" value=(listed.token);
                            button.primary[one.state() != State::Active] type="submit" aria-label={ (connect_word(one)) " " (name) } { (connect_word(one)) }
                        }
                    }
                    @if linked {
                        form method="post" action={ "/connect/" (id) "/test" } {
                            input type="hidden" name="token" value=(listed.token);
                            button type="submit" aria-label={ "Test " (name) } { "Test" }
                        }
                        @if !listed.read_only {
                            a.button.danger href={ "/connect/" (id) "/disconnect" } aria-label={ "Disconnect " (name) } { "Disconnect" }
                        }
                    }
                }
            }
        }
    }
}

fn connect_word(one: &Parameters) -> &'static str {
    if one.account.is_some() || one.grant.is_some() { "Reconnect" } else { "Connect" }
}

fn badge(one: &Parameters) -> Markup {
    let (class, text) = match one.state() {
        State::Pending => ("pending", "Not connected"),
        State::Active => ("active", "Connected"),
        State::ReauthorizationRequired => ("lost", "Reconnect needed"),
        State::Disabled => ("disabled", "Disabled"),
    };
    html! { span class={ "badge " (class) } { (text) } }
}

fn account(one: &Parameters) -> Markup {
    match &one.account {
        None => html! { span.none { "none" } },
        Some(account) => named(account, one.settings.account_kind),
    }
}

fn named(account: &Account, kind: AccountKind) -> Markup {
    let name = if account.display_name.is_empty() { &account.account_id } else { &account.display_name };
    html! {
        span.name { (name) }
        @if !account.email.is_empty() { span.email { (account.email) } }
        @if kind == AccountKind::Team { span.email { "whole team" } }
    }
}

fn back() -> Markup {
    html! { p { a.button href="/connect" { "Back to the list" } } }
}

fn title_of(one: &Parameters) -> &str {
    if one.settings.display_name.is_empty() { one.id.as_str() } else { &one.settings.display_name }
}

fn scopes(heading: &str, scopes: &[String]) -> Markup {
    html! {
        @if !scopes.is_empty() {
            details {
                summary { (heading) " (" (scopes.len()) ")" }
                ul.scopes { @for scope in scopes { li { code { (scope) } } } }
            }
        }
    }
}

pub(super) fn connected(completed: &Completed, has_page: bool) -> Markup {
    let one = &completed.parameters;
    let missing = &completed.missing_scopes;
    frame(
        "Account connected",
        &html! {
            div.outcome.good role="status" {
                h1 { "Account connected" }
                p { strong { (title_of(one)) } " now stands for this Dropbox account:" }
                p.account { (account(one)) }
            }
            @if one.state() == State::Disabled {
                p.note role="note" { "The application parameter is disabled: programs cannot use it until it is enabled again." }
            }
            @if !missing.is_empty() {
                section.warn aria-labelledby="missing" {
                    h2 #missing { "Some rights are missing" }
                    p { "These scopes were asked for, or what the parameter permits needs them, and Dropbox did not grant them:" }
                    ul.scopes { @for scope in missing { li { code { (scope) } } } }
                    p { "Enable them for the app in Dropbox's App Console (tab Permissions), then connect the account again." }
                }
            }
            (scopes("Granted scopes", &one.granted_scopes))
            @if has_page { (back()) } @else { p { "You may close this window." } }
        },
    )
}

pub(super) fn failed(told: &Told<'_>) -> Markup {
    let fault = told.fault;
    let remedy = match fault.reason() {
        // Here there is no field to set.
        Reason::AccountMismatch => {
            "sign in at Dropbox with the account that is linked, or disconnect it here first and then connect the other one"
        }
        _ => fault.remedy(),
    };
    let parameter = fault.get("applicationParameterId");
    frame(
        told.title,
        &html! {
            div.outcome.bad role="alert" {
                h1 { (told.title) }
                p { (sentence(message(fault))) }
                @if let Some(text) = told.description { p { "Dropbox says: " q { (text) } } }
                p.remedy { strong { "What to do: " } (sentence(remedy)) }
            }
            dl.facts {
                dt { "Reason" } dd { code { (fault.reason().name()) } }
                @if let Some(id) = parameter { dt { "Application parameter" } dd { code { (id) } } }
                @if let Some(uri) = fault.get("redirectUri") { dt { "Redirect URI to register" } dd { code { (uri) } } }
                @if let Some(id) = fault.get("dropboxRequestId") { dt { "Dropbox request" } dd { code { (id) } } }
            }
            @if told.has_page { (back()) }
        },
    )
}

/// Nothing of the cause of a bug leaves the process.
fn message(fault: &Fault) -> &str {
    if fault.reason() == Reason::ConnectorBug { "something went wrong inside the connector" } else { fault.message() }
}

/// Messages are written to follow a colon; here they stand alone.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

pub(super) fn tested(one: &Parameters, report: &TestReport) -> Markup {
    frame(
        "The test went well",
        &html! {
            div.outcome.good role="status" {
                h1 { "The test went well" }
                p { strong { (title_of(one)) } " works. Dropbox answered in " (report.latency.as_millis()) " ms." }
                @if let Some(found) = &report.account { p.account { (named(found, one.settings.account_kind)) } }
            }
            @if let Some(skew) = report.clock_skew_seconds.filter(|skew| skew.abs() > 5) {
                p.note role="note" { "This machine's clock differs from Dropbox's by " (skew) " s." }
            }
            (scopes("Granted scopes", &report.scopes))
            (back())
        },
    )
}

pub(super) fn ask_disconnect(one: &Parameters, token: &str) -> Markup {
    frame(
        "Disconnect?",
        &html! {
            h1 { "Disconnect " (title_of(one)) "?" }
            p.account { (account(one)) }
            p {
                "The grant is revoked at Dropbox and forgotten here. Programs that use "
                code { (one.id.as_str()) }
                " are refused, and their uploads and downloads under way end. Files are not touched."
            }
            div.actions {
                form method="post" action={ "/connect/" (one.id.as_str()) "/disconnect" } {
                    input type="hidden" name="token" value=(token);
                    button.danger type="submit" { "Disconnect" }
                }
                a.button href="/connect" { "Cancel" }
            }
        },
    )
}

pub(super) fn disconnected(revoked: &Revoked) -> Markup {
    frame(
        "Account disconnected",
        &html! {
            div.outcome.good role="status" {
                h1 { "Account disconnected" }
                p { strong { (title_of(&revoked.parameters)) } " stands for no Dropbox account any more." }
                @if revoked.was_connected && !revoked.at_dropbox {
                    p.remedy {
                        strong { "What is left to do: " }
                        "Dropbox did not confirm that the grant is gone. Unlink the app in the account's settings at Dropbox, "
                        "for a team in its admin console."
                    }
                }
            }
            (back())
        },
    )
}

pub(super) fn misdirected(port: u16) -> Markup {
    frame(
        "Another address",
        &html! {
            div.outcome.bad role="alert" {
                h1 { "This page has another address" }
                p { "Open " code { "http://localhost:" (port) "/connect" } " on this machine. To reach it by another name, put "
                    code { "https://NAME/oauth/callback" } " into " code { "oauth_redirect_uris" } "." }
            }
        },
    )
}
