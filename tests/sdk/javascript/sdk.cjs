// Drives the emulator with the official JavaScript SDK, unchanged.
//
// Arguments: the base URLs of the emulator's api, content, notify, www and control hosts. The SDK takes a `fetch`; ours is
// its own (node-fetch) with Dropbox's hosts replaced by the emulator's.

'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const nodeFetch = require('node-fetch');
const { Dropbox, DropboxAuth, DropboxResponseError } = require('dropbox');

const [api, content, notify, www, control] = process.argv.slice(2);
const hosts = {
  'https://api.dropboxapi.com': api,
  'https://content.dropboxapi.com': content,
  'https://notify.dropboxapi.com': notify,
  'https://dropbox.com': www,
};

function here(url) {
  const [host] = Object.keys(hosts).filter((name) => url.startsWith(`${name}/`));
  assert(host, `the SDK asks for ${url}`);
  return hosts[host] + url.slice(host.length);
}

const fetch = (url, options) => nodeFetch(here(url), options);

async function ask(path, body, method = 'POST') {
  const answer = await nodeFetch(`${control}/control/${path}`, { method, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert.equal(answer.status, 200, text);
  return JSON.parse(text);
}

async function refused(call) {
  try {
    await call;
  } catch (error) {
    assert(error instanceof DropboxResponseError, String(error.stack));
    return error;
  }
  throw new assert.AssertionError({ message: 'the call was answered' });
}

function hash(bytes) {
  const blocks = [];
  for (let at = 0; at < bytes.length; at += 4 << 20) {
    blocks.push(crypto.createHash('sha256').update(bytes.subarray(at, at + (4 << 20))).digest());
  }
  return crypto.createHash('sha256').update(Buffer.concat(blocks)).digest('hex');
}

async function accounts(dbx, login) {
  const me = (await dbx.usersGetCurrentAccount()).result;
  assert.equal(me.account_id, login.account_id);
  assert.equal((await dbx.usersGetSpaceUsage()).result.allocation['.tag'], 'individual');
  assert.equal((await dbx.usersGetAccount({ account_id: me.account_id })).result.email, me.email);
  assert.equal((await dbx.checkUser({ query: 'ping' })).result.result, 'ping');
  const app = new Dropbox({ clientId: login.app_key, clientSecret: login.app_secret, fetch });
  assert.equal((await app.checkApp({ query: 'pong' })).result.result, 'pong');
}

async function files(dbx) {
  const path = '/js/Grüne 😀.txt';
  const first = (await dbx.filesUpload({ path, contents: 'one', mode: 'add' })).result;
  assert.equal(first.content_hash, hash(Buffer.from('one')));
  assert.equal(first['.tag'], undefined);
  const conflict = await refused(dbx.filesUpload({ path, contents: 'two' }));
  assert.equal(conflict.status, 409);
  assert.equal(conflict.error.error.reason.conflict['.tag'], 'file');
  assert(conflict.error.error_summary.startsWith('path/conflict/file/'));
  const mode = { '.tag': 'update', update: first.rev };
  const second = (await dbx.filesUpload({ path, contents: 'two', mode })).result;
  const down = (await dbx.filesDownload({ path })).result;
  assert.equal(down.fileBinary.toString(), 'two');
  assert.equal(down.rev, second.rev);
  assert.equal((await dbx.filesGetMetadata({ path })).result['.tag'], 'file');
  const missing = await refused(dbx.filesDownload({ path: '/nothing' }));
  assert.deepEqual(missing.error.error, { '.tag': 'path', path: { '.tag': 'not_found' } });
  const unknown = await refused(dbx.filesGetMetadata({ path, foo: 1 }));
  assert.equal(unknown.status, 400);
  assert.equal(unknown.error, 'Error in call to API function "files/get_metadata": request body: unknown field \'foo\'');
}

async function sessions(dbx) {
  const block = 4 << 20;
  const data = crypto.randomBytes(2 * block + 17);
  const start = await dbx.filesUploadSessionStart({ close: false, contents: data.subarray(0, 100) });
  const id = start.result.session_id;
  const append = { cursor: { session_id: id, offset: 100 }, close: false };
  await dbx.filesUploadSessionAppendV2({ ...append, contents: data.subarray(100, 5000) });
  const again = await refused(dbx.filesUploadSessionAppendV2({ ...append, contents: data.subarray(100, 5000) }));
  assert.deepEqual(again.error.error, { '.tag': 'incorrect_offset', correct_offset: 5000 });
  const finish = { cursor: { session_id: id, offset: 5000 }, commit: { path: '/js/session.bin' } };
  const done = (await dbx.filesUploadSessionFinish({ ...finish, contents: data.subarray(5000) })).result;
  assert.equal(done.content_hash, hash(data));

  const session_type = { '.tag': 'concurrent' };
  const many = (await dbx.filesUploadSessionStartBatch({ session_type, num_sessions: 1 })).result.session_ids[0];
  await Promise.all([1, 0].map((number) => dbx.filesUploadSessionAppendV2({
    cursor: { session_id: many, offset: number * block },
    contents: data.subarray(number * block, (number + 1) * block),
  })));
  const tail = { cursor: { session_id: many, offset: 2 * block }, close: true };
  await dbx.filesUploadSessionAppendV2({ ...tail, contents: data.subarray(2 * block) });
  const entries = [{ cursor: { session_id: many, offset: data.length }, commit: { path: '/js/concurrent.bin' } }];
  const [entry] = (await dbx.filesUploadSessionFinishBatchV2({ entries })).result.entries;
  assert.equal(entry['.tag'], 'success');
  assert.equal(entry.content_hash, hash(data));
}

async function folders(dbx) {
  const made = (await dbx.filesCreateFolderV2({ path: '/Tree/Sub' })).result.metadata;
  assert.equal(made.path_lower, '/tree/sub');
  await dbx.filesUpload({ path: '/Tree/Sub/a.txt', contents: 'a' });
  await dbx.filesCopyV2({ from_path: '/Tree/Sub/a.txt', to_path: '/Tree/b.txt' });
  await dbx.filesMoveV2({ from_path: '/Tree/b.txt', to_path: '/Tree/c.txt' });
  let page = (await dbx.filesListFolder({ path: '/Tree', recursive: true, limit: 1 })).result;
  const names = [];
  for (;;) {
    names.push(...page.entries.map((entry) => `${entry['.tag']}:${entry.name}`));
    if (!page.has_more) break;
    page = (await dbx.filesListFolderContinue({ cursor: page.cursor })).result;
  }
  assert.deepEqual(names.sort(), ['file:a.txt', 'file:c.txt', 'folder:Sub', 'folder:Tree']);
  await dbx.filesDeleteV2({ path: '/Tree/Sub' });
  assert.equal((await dbx.filesListFolderLongpoll({ cursor: page.cursor, timeout: 30 })).result.changes, true);
  const batch = (await dbx.filesDeleteBatch({ entries: [{ path: '/Tree/c.txt' }, { path: '/Tree/none' }] })).result;
  let check = batch;
  while (check['.tag'] !== 'complete') {
    check = (await dbx.filesDeleteBatchCheck({ async_job_id: batch.async_job_id })).result;
  }
  assert.deepEqual(check.entries.map((entry) => entry['.tag']), ['success', 'failure']);
}

async function links(dbx) {
  await dbx.filesUpload({ path: '/Shared/a.txt', contents: 'shared' });
  const link = (await dbx.sharingCreateSharedLinkWithSettings({ path: '/Shared/a.txt' })).result;
  const exists = await refused(dbx.sharingCreateSharedLinkWithSettings({ path: '/Shared/a.txt' }));
  assert.equal(exists.error.error.shared_link_already_exists.metadata.url, link.url);
  const list = (await dbx.sharingListSharedLinks({})).result;
  assert.deepEqual(list.links.map(({ url }) => url), [link.url]);
  const file = (await dbx.sharingGetSharedLinkFile({ url: link.url })).result;
  assert.equal(file.fileBinary.toString(), 'shared');
  await dbx.sharingRevokeSharedLink({ url: link.url });
}

async function trouble(dbx, login) {
  await ask('script', { route: 'users/get_space_usage', times: 1, action: { do: 'too_many_requests', retry_after: 7 } });
  const limit = await refused(dbx.usersGetSpaceUsage());
  assert.equal(limit.status, 429);
  assert.equal(limit.error.error.retry_after, 7);
  assert.equal(limit.headers.get('retry-after'), '7');
  await ask('tokens/expire');
  const stale = new Dropbox({ accessToken: login.access_token, fetch });
  const expired = await refused(stale.usersGetCurrentAccount());
  assert.equal(expired.error.error['.tag'], 'expired_access_token');
}

async function oauth(login) {
  await ask('consent', { consent: 'approve' });
  const auth = new DropboxAuth({ clientId: login.app_key, fetch });
  const redirect = 'http://localhost:9/back';
  const scope = ['account_info.read'];
  const url = await auth.getAuthenticationUrl(redirect, 'mine', 'code', 'offline', scope, 'none', true);
  const page = await nodeFetch(here(url), { redirect: 'manual' });
  const back = new URL(page.headers.get('location')).searchParams;
  assert.equal(back.get('state'), 'mine');
  const token = (await auth.getAccessTokenFromCode(redirect, back.get('code'))).result;
  assert.equal(token.scope, 'account_info.read');
  const dbx = new Dropbox({ clientId: login.app_key, refreshToken: token.refresh_token, fetch });
  assert.equal((await dbx.usersGetCurrentAccount()).result.account_id, token.account_id);
  await dbx.authTokenRevoke();
  const dead = await refused(auth.getAccessTokenFromCode(redirect, back.get('code')));
  assert.equal(dead.error.error, 'invalid_grant');
}

async function main() {
  const login = await ask('login', undefined, 'GET');
  const dbx = new Dropbox({
    clientId: login.app_key, clientSecret: login.app_secret, refreshToken: login.refresh_token, fetch,
  });
  for (const step of [accounts, files, sessions, folders, links, trouble]) {
    await step(dbx, login);
    console.log('ok', step.name);
  }
  await oauth(login);
  console.log('ok oauth');
  assert.deepEqual(await ask('wrong_answers', undefined, 'GET'), []);
}

main().catch((error) => {
  console.error(error, error.error && JSON.stringify(error.error));
  process.exit(1);
});
