//! `WalkFolder`: a folder as one stream of batches, each with the token that goes on behind it; or sorted and then told.

use std::{cmp::Ordering, collections::VecDeque};

use futures::{StreamExt, stream};
use tonic::Status;

use super::{
    call::Call,
    door::Site,
    filter::{self, Filter},
    items::{Answers, Items, Taken, folder_of, take},
    pages::{self, Place},
};
use crate::{
    access::Permissions,
    apart::apart,
    api::v1 as api,
    convert::items::{self as convert, Listing, WalkPlan},
    engine::walk::{Walk, WalkPage},
    fault::Result,
    limits::{LIST_LIMIT_MAX, WALK_BATCH_BYTES_MAX, WALK_BATCH_ITEMS_MAX},
};

/// A walk under way.
struct Walker {
    site: Site,
    request: api::WalkFolderRequest,
    filter: Filter,
    plan: WalkPlan,
    folder: String,
    base: String,
    walk: Walk,
    /// The Dropbox page being told, and where it came from.
    page: Option<Page>,
    cursor: String,
    /// Entries of the first page that an earlier stream told.
    skip: usize,
    /// A sorted walk's batches.
    sorted: Option<VecDeque<Vec<api::Item>>>,
    told: usize,
    bytes: i64,
    ended: bool,
}

struct Page {
    from: String,
    given: usize,
    page: WalkPage,
}

impl Items {
    pub async fn walk_folder(
        &self,
        call: Call,
        mut request: api::WalkFolderRequest,
    ) -> Result<Answers<api::WalkFolderResponse>> {
        pages::take_context(&self.door, &call, &mut request).await?;
        let (listing, plan) = convert::walk_folder(&request)?;
        let filter = filter::compile(request.filter.as_ref())?;
        let (asked, listing, filter) = (&request, &listing, &filter);
        let begun = self.door.enter(&call, asked, Permissions::default(), |site| async move {
            let mut walker = Walker::begin(site, asked, listing, filter, plan).await?;
            // The first page comes before the stream: most mistakes are then plain refusals.
            walker.next_page().await?;
            if plan.order != api::ItemOrderBy::Unspecified {
                walker.sort().await?;
            }
            Ok(walker)
        });
        let walker = begun.await?;
        let answers = stream::unfold((walker, call), |(mut walker, call)| async move {
            let answer = walker.next().await.map_err(|fault| call.refusal(&walker.site.told(fault)));
            let failed = answer.is_err();
            let answer: Result<_, Status> = answer;
            let answer = answer.transpose()?;
            walker.ended |= failed;
            Some((answer, (walker, call)))
        });
        Ok(answers.boxed())
    }
}

impl Walker {
    async fn begin(
        site: Site,
        request: &api::WalkFolderRequest,
        listing: &Listing,
        filter: &Filter,
        plan: WalkPlan,
    ) -> Result<Self> {
        let (folder, from) = match pages::open(&site, request)? {
            Some(at) => at,
            None => (folder_of(&site, listing).await?, Place::default()),
        };
        let base = filter.base(&site, &folder).await?;
        // A stream outlives the first call's deadline only if the caller set none.
        let caller = site.caller().clone();
        let walk = if from.cursor.is_empty() {
            Walk::begin(caller, listing.arg(Some(&folder), LIST_LIMIT_MAX))
        } else {
            Walk::resume(caller, from.cursor.clone())
        };
        Ok(Walker {
            site,
            request: request.clone(),
            filter: filter.clone(),
            plan,
            folder,
            base,
            walk,
            page: None,
            cursor: from.cursor,
            skip: from.given,
            sorted: None,
            told: 0,
            bytes: 0,
            ended: false,
        })
    }

    /// Reads the next page; `page` stays empty at the end.
    async fn next_page(&mut self) -> Result<()> {
        let given = std::mem::take(&mut self.skip);
        let mut walk = self.walk.clone();
        let (page, walk) = apart(async move { Ok((walk.page().await?, walk)) }).await?;
        self.walk = walk;
        self.page = page.map(|mut page| {
            let from = std::mem::replace(&mut self.cursor, page.cursor.clone());
            page.entries.drain(..given.min(page.entries.len()));
            Page { from, given, page }
        });
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<api::WalkFolderResponse>> {
        use api::walk_folder_response::Payload;
        if self.ended {
            return Ok(None);
        }
        let batch = match &mut self.sorted {
            Some(batches) => batches.pop_front().map(|items| api::WalkBatch { items, ..Default::default() }),
            None => self.next_batch().await?,
        };
        let payload = match batch {
            Some(batch) => {
                self.count(&batch.items);
                Payload::Batch(batch)
            }
            None => {
                self.ended = true;
                let count = i32::try_from(self.told).unwrap_or(i32::MAX);
                Payload::Summary(api::WalkSummary { count, bytes: self.bytes })
            }
        };
        Ok(Some(api::WalkFolderResponse { payload: Some(payload) }))
    }

    /// The next batch in Dropbox's order. A page that the filter empties is told as an empty batch: the walk goes on.
    async fn next_batch(&mut self) -> Result<Option<api::WalkBatch>> {
        let left = self.plan.max_items - self.told;
        if left == 0 {
            return Ok(None);
        }
        if self.page.is_none() {
            self.next_page().await?;
        }
        let Some(Page { from, given, mut page }) = self.page.take() else { return Ok(None) };
        let mut answer = pages::Answer::bounded(WALK_BATCH_ITEMS_MAX.min(left), WALK_BATCH_BYTES_MAX);
        let before = page.entries.len();
        let taken = take(&mut answer, &mut page.entries, &self.site, &self.base, &self.filter);
        let given = given + (before - page.entries.len());
        let place = match taken {
            Taken::All => Place { cursor: page.cursor.clone(), given: 0 },
            Taken::Some => Place { cursor: from.clone(), given },
        };
        let continue_token = pages::seal(&self.site, &self.request, &self.folder, place)?;
        if taken == Taken::Some {
            self.page = Some(Page { from, given, page });
        }
        Ok(Some(api::WalkBatch { items: answer.taken, continue_token }))
    }

    fn count(&mut self, items: &[api::Item]) {
        self.told += items.len();
        self.bytes += items.iter().map(bytes).sum::<i64>();
    }

    /// Reads everything, keeps the first `max_items` of the order, and cuts them into batches.
    async fn sort(&mut self) -> Result<()> {
        let WalkPlan { order, descending, max_items } = self.plan;
        let by = |a: &api::Item, b: &api::Item| {
            let ordering = compare(order, a, b);
            if descending { ordering.reverse() } else { ordering }
        };
        let mut kept: Vec<api::Item> = Vec::new();
        while let Some(Page { mut page, .. }) = self.page.take() {
            while !page.entries.is_empty() {
                let mut answer = pages::Answer::bounded(usize::MAX, WALK_BATCH_BYTES_MAX);
                let _ = take(&mut answer, &mut page.entries, &self.site, &self.base, &self.filter);
                kept.append(&mut answer.taken);
            }
            if kept.len() >= max_items.saturating_mul(2) {
                kept.sort_by(by);
                kept.truncate(max_items);
            }
            self.next_page().await?;
        }
        kept.sort_by(by);
        kept.truncate(max_items);
        let mut batches = VecDeque::new();
        let mut kept = kept.into_iter().peekable();
        while kept.peek().is_some() {
            let mut answer = pages::Answer::bounded(WALK_BATCH_ITEMS_MAX, WALK_BATCH_BYTES_MAX);
            while let Some(item) = kept.next_if(|item| answer.has_room(item)) {
                answer.put(item);
            }
            batches.push_back(answer.taken);
        }
        self.sorted = Some(batches);
        Ok(())
    }
}

fn bytes(item: &api::Item) -> i64 {
    match &item.kind {
        Some(api::item::Kind::File(file)) => file.size,
        _ => 0,
    }
}

/// Folders have neither size nor time and so come first; equals are told in the order of their paths.
fn compare(order: api::ItemOrderBy, a: &api::Item, b: &api::Item) -> Ordering {
    let modified = |item: &api::Item| match &item.kind {
        Some(api::item::Kind::File(file)) => file.server_modified.map(|at| (at.seconds, at.nanos)),
        _ => None,
    };
    let size = |item: &api::Item| match &item.kind {
        Some(api::item::Kind::File(file)) => Some(file.size),
        _ => None,
    };
    let by_path = || a.path_lower.cmp(&b.path_lower);
    match order {
        api::ItemOrderBy::Size => size(a).cmp(&size(b)).then_with(by_path),
        api::ItemOrderBy::Modified => modified(a).cmp(&modified(b)).then_with(by_path),
        api::ItemOrderBy::Name | api::ItemOrderBy::Unspecified => by_path(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_first_and_equals_by_path() {
        let file = |path: &str, size| api::Item {
            path_lower: path.into(),
            kind: Some(api::item::Kind::File(api::FileItem { size, ..Default::default() })),
            ..Default::default()
        };
        let folder = api::Item { path_lower: "/z".into(), ..convert::root_item() };
        let mut items = [file("/b", 5), file("/a", 5), folder, file("/c", 1)];
        items.sort_by(|a, b| compare(api::ItemOrderBy::Size, a, b));
        assert_eq!(items.map(|item| item.path_lower), ["/z", "/c", "/a", "/b"]);
    }
}
