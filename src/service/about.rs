//! `GetServerInfo`: version, limits, what stands behind the server.

use std::{sync::Arc, time::SystemTime};

use super::call::Call;
use crate::{
    api::v1 as api,
    config::Config,
    convert::{duration, timestamp},
    dropbox::Endpoints,
    engine::upload::Budget,
    events::Hub,
    fair,
    fault::Result,
    limits,
};

/// What the server says of itself: made once, but for what changes.
#[derive(Clone)]
pub struct About {
    info: Arc<api::GetServerInfoResponse>,
    hub: Hub,
}

impl About {
    pub fn new(config: &Config, started_at: SystemTime, hub: Hub) -> Self {
        let upstream = if config.emulator {
            api::Upstream::Emulator
        } else if is_dropbox(config) {
            api::Upstream::Dropbox
        } else {
            api::Upstream::Custom
        };
        let info = Arc::new(api::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            upstream: upstream.into(),
            limits: Some(server_limits(config)),
            features: features(config),
            // One process holds the embedded store.
            request_id_scope: api::RequestIdScope::Process.into(),
            started_time: Some(timestamp(started_at)),
            watches_take_turns: false,
        });
        About { info, hub }
    }

    pub async fn get_server_info(&self, _: Call, _: api::GetServerInfoRequest) -> Result<api::GetServerInfoResponse> {
        Ok(api::GetServerInfoResponse { watches_take_turns: self.hub.takes_turns(), ..(*self.info).clone() })
    }
}

fn features(config: &Config) -> Vec<String> {
    let all = [("grpc_web", config.grpc_web), ("webhooks", config.webhooks)];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()).collect()
}

fn is_dropbox(config: &Config) -> bool {
    let real = Endpoints::dropbox();
    config.dropbox_api_url == real.api
        && config.dropbox_content_url == real.content
        && config.dropbox_notify_url == real.notify
        && config.dropbox_oauth_url == real.oauth
}

fn server_limits(config: &Config) -> api::ServerLimits {
    let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let of_one = |total: usize| count(fair::alone(total, 1));
    let budget = usize::try_from(config.transfer_buffer_mib * limits::MIB).unwrap_or(usize::MAX);
    let room = Budget::of(budget).room(config.max_uploads);
    api::ServerLimits {
        max_chunk_bytes: bytes(limits::CHUNK_BYTES_MAX),
        recommended_chunk_bytes: bytes(limits::CHUNK_BYTES_RECOMMENDED),
        max_message_bytes: bytes(limits::MESSAGE_BYTES_MAX),
        max_answer_bytes: bytes(limits::ANSWER_BYTES_MAX),
        max_raw_result_bytes: bytes(limits::RAW_RESULT_BYTES_MAX),
        max_file_bytes: crate::convert::size(limits::DROPBOX_FILE_BYTES_MAX),
        append_bytes: crate::convert::size(config.append_mib * limits::MIB),
        max_single_upload_bytes: crate::convert::size(limits::SINGLE_UPLOAD_BYTES_MAX),
        parallel_from_bytes: crate::convert::size(limits::PARALLEL_FROM_BYTES),
        max_parallel_appends: limits::PARALLEL_APPENDS_MAX.cast_signed(),
        default_parallel_appends: count(limits::PARALLEL_APPENDS_DEFAULT),
        upload_idle: Some(duration(config.upload_idle)),
        upload_life: Some(duration(limits::UPLOAD_SESSION_LIFE)),
        min_download_chunk_bytes: bytes(limits::DOWNLOAD_CHUNK_MIN),
        default_download_chunk_bytes: bytes(limits::DOWNLOAD_CHUNK_DEFAULT),
        max_download_chunk_bytes: bytes(limits::DOWNLOAD_CHUNK_MAX),
        max_parallel_ranges: limits::PARALLEL_RANGES_MAX.cast_signed(),
        max_uploads: count(config.max_uploads),
        max_downloads: count(config.max_downloads),
        transfer_buffer_bytes: crate::convert::size(config.transfer_buffer_mib * limits::MIB),
        max_dropbox_requests: count(config.max_requests_per_account),
        max_waiting_calls: count(limits::ACCOUNT_QUEUE_MAX),
        max_list_page_size: limits::LIST_LIMIT_MAX.cast_signed(),
        max_search_page_size: limits::SEARCH_PAGE_MAX.cast_signed(),
        max_sorted_items: count(limits::SORTED_ITEMS_MAX),
        default_deadline: Some(duration(limits::UNARY_DEADLINE_DEFAULT)),
        max_deadline: Some(duration(limits::DEADLINE_MAX)),
        max_watches: count(config.max_watches),
        max_stream_age: Some(duration(config.max_stream_age)),
        max_longpolls: count(limits::LONGPOLLS_MAX),
        max_pull_events: count(limits::PULL_EVENTS_MAX),
        max_parameter_uploads: of_one(config.max_uploads),
        max_parameter_downloads: of_one(config.max_downloads),
        max_parameter_dropbox_requests: of_one(config.max_requests_per_account),
        max_parameter_waiting_calls: of_one(limits::ACCOUNT_QUEUE_MAX),
        max_unsized_uploads: count(room.open),
        max_parameter_unsized_uploads: count(room.open_of_one),
        max_waiting_unsized_uploads: count(room.waiting),
        max_parameter_waiting_unsized_uploads: count(room.waiting_of_one),
        max_plan_items: count(limits::PLAN_ITEMS_MAX),
        max_plan_entries: count(limits::PLAN_ENTRIES_MAX),
        max_plan_bytes: bytes(limits::PLANS_BYTES_MAX),
        max_commit_items: count(limits::COMMITS_MAX),
        plan_idle: Some(duration(config.plan_idle)),
    }
}
