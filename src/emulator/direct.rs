//! An emulator without its ports, for tests that take one step after the other: the handlers are called as they are.

use std::{fmt, sync::Arc};

use http::HeaderMap;
use serde_json::Value;

use super::{Call, Options, Refusal, Reply, Who, World, content::Content, control::Control, handler, tree::Terms};

pub(crate) struct Direct(Arc<World>);

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

impl Direct {
    pub(crate) fn new(options: &Options) -> Direct {
        Direct(Arc::new(World::new(options).expect("it is in memory")))
    }

    pub(crate) fn control(&self) -> Control {
        Control::new(self.0.clone())
    }

    /// As the default account. An error is that of a 409.
    pub(crate) fn call(&self, route: &str, mut arg: Value) -> Result<Value, Value> {
        let world = &*self.0;
        let spec = world.schema.route(route).expect("a published route");
        world.schema.check_arg(spec, &mut arg).expect("an argument of the published type");
        let (account, root) = {
            let tree = world.tree();
            let account = tree.default_account();
            (account.id.clone(), account.home)
        };
        let who = Who::User { account, app: String::new(), token: String::new() };
        let call = Call { route: spec, arg, who, root, headers: &HeaderMap::new(), body: None, entries: &[] };
        match handler(route).expect("the emulator has it")(world, call) {
            Ok(Reply::Json(result)) => {
                world.schema.check_result(spec, &result).expect("an answer of the published type");
                Ok(result)
            }
            Ok(Reply::Download { .. }) => panic!("{route} has no JSON answer"),
            Err(Refusal::Endpoint { error, .. }) => {
                world.schema.check_error(spec, &error).expect("an error of the published type");
                Err(error)
            }
            Err(other) => panic!("{route}: {other:?}"),
        }
    }

    /// Writes a file over whatever file is there; with `strict` the same bytes are a new revision. False: it is refused.
    pub(crate) fn put(&self, path: &str, bytes: &[u8], strict: bool) -> bool {
        let mut tree = self.0.tree();
        let home = tree.default_account().home;
        let Ok(place) = tree.locate(home, path) else { return false };
        let terms = Terms { strict_conflict: strict, ..Terms::overwrite() };
        tree.write_file(&place, Content::from_bytes(bytes.to_vec()), &terms).is_ok()
    }
}
