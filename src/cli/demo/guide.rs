//! What the demo leaves its reader with: the same by hand, and the way to a real account.

use crate::app::{Addresses, DEMO_PARAMETER};

use crate::cli::out;

/// Printed with the default port: the demo's own ports are gone by then.
pub fn print(_: &Addresses) {
    out::line(text());
}

pub fn text() -> String {
    let service = "dropboxconnector.v1.DropboxConnector";
    let parameter = format!("\"application_parameter_id\":\"{DEMO_PARAMETER}\"");
    let call = "grpcurl -plaintext";
    let server = "127.0.0.1:50051";
    format!(
        "\
The same by hand. Start it, with an emulated Dropbox in it:
  dropbox-connector serve --emulator
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
  dropbox-connector put -r ./some-folder /    and    ls -l -r, get, link, mv, cp, search, rm
  dropbox-connector watch /                   prints what changes from now on, as it happens

With a real account:
  1. Make an app at https://www.dropbox.com/developers/apps and give it the scopes account_info.read,
     files.metadata.read, files.content.read, files.content.write, sharing.read and sharing.write.
  2. Get a refresh token for it: the authorization flow of your choice with token_access_type=offline.
  3. dropbox-connector keys generate dropbox-connector.keys
     dropbox-connector serve
  4. dropbox-connector parameters create mine --app-key KEY --app-secret-file FILE
     dropbox-connector parameters import mine --refresh-token-file FILE
     dropbox-connector parameters test mine
     dropbox-connector account -p mine"
    )
}
