//! What the demo leaves its reader with: the same by hand, and the way to a real account.

use crate::app::{Addresses, DEMO_PARAMETER};

use crate::cli::out;

/// Printed with the default port: the demo's own ports are gone by then.
pub fn print(_: &Addresses) {
    out::line(text(&program()));
}

/// This program as it was called: it need not be on the path.
fn program() -> String {
    let called = std::env::args().next().filter(|word| word.contains(std::path::MAIN_SEPARATOR));
    let called = called.and_then(|word| shlex::try_quote(&word).ok().map(|quoted| quoted.into_owned()));
    called.unwrap_or_else(|| "dropbox-connector".to_owned())
}

fn text(program: &str) -> String {
    let service = "dropboxconnector.v1.DropboxConnector";
    let parameter = format!("\"application_parameter_id\":\"{DEMO_PARAMETER}\"");
    let call = "grpcurl -plaintext";
    let server = "127.0.0.1:50051";
    // The lines of a here-document stand at the margin, so that they can be pasted.
    format!(
        "\
The same by hand. Start it, with an emulated Dropbox in it:
  {program} serve --emulator
and from another terminal, with grpcurl (reflection is on; `describe` shows the manual):
  {call} {server} list
  {call} {server} describe {service}.UploadFile
  {call} -d '{{{parameter}}}' {server} {service}/GetAccount
  {call} -d @ {server} {service}/UploadFile <<'END'
{{{parameter},\"spec\":{{\"path\":\"/hello.txt\"}}}}
{{\"chunk\":{{\"data\":\"aGVsbG8K\"}}}}
{{\"finish\":{{}}}}
END
  {call} -d '{{{parameter},\"recursive\":true}}' {server} {service}/WalkFolder
  {call} -d '{{{parameter},\"path\":\"/hello.txt\"}}' {server} {service}/DownloadFile
  {call} -d '{{{parameter},\"path\":\"/hello.txt\"}}' {server} {service}/CreateSharedLink
  {call} -d '{{{parameter},\"from_path\":\"/hello.txt\",\"to_path\":\"/moved.txt\"}}' {server} {service}/MoveItem
  {call} -d '{{{parameter},\"path\":\"/moved.txt\",\"kind\":\"ITEM_KIND_FILE\"}}' {server} {service}/DeleteItem
or with this program:
  export DROPBOX_CONNECTOR_PARAMETER={DEMO_PARAMETER}
  {program} put -r ./some-folder /    and    ls -l -r, get, link, mv, cp, search, rm
  {program} watch /                   prints what changes from now on, as it happens

With a real account:
  1. Make an app at https://www.dropbox.com/developers/apps and give it the scopes account_info.read,
     files.metadata.read, files.content.read, files.content.write, sharing.read and sharing.write.
  2. {program} keys generate dropbox-connector.keys
     {program} serve
  3. From another terminal; without a browser here, connect prints an address and takes the code that Dropbox shows:
     {program} parameters create mine --app-key KEY --app-secret-file FILE
     {program} connect mine
     {program} parameters test mine
     {program} account -p mine"
    )
}
