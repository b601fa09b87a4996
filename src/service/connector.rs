//! The table of contents: every RPC of the data service, one expression each.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    about::About,
    call::answer,
    changes::Changes,
    events::Events,
    items::{Answers, Items},
    pieces,
    raw_api::RawApi,
    sharing::Sharing,
    sync::Plans,
    transfer::Transfer,
};
use crate::{api::Encoded, api::v1 as api, api::v1::dropbox_connector_server::DropboxConnector, fault::Fault};

/// The data service.
#[derive(Clone)]
pub struct Connector {
    pub transfer: Transfer,
    pub items: Items,
    pub changes: Changes,
    pub sharing: Sharing,
    pub raw_api: RawApi,
    pub events: Arc<Events>,
    pub plans: Plans,
    pub about: About,
}

#[async_trait]
impl DropboxConnector for Connector {
    type UploadFileDuplexStream = Answers<api::UploadFileDuplexResponse>;
    type DownloadFileStream = Answers<api::DownloadFileResponse>;
    type WatchEventsStream = Answers<Encoded>;
    type WalkFolderStream = Answers<api::WalkFolderResponse>;
    type PlanSyncStream = Answers<api::PlanSyncResponse>;

    async fn upload_file(
        &self,
        request: Request<Streaming<api::UploadFileRequest>>,
    ) -> Result<Response<api::UploadFileResponse>, Status> {
        answer(request, |call, stream| self.transfer.upload_file(call, stream)).await
    }

    async fn upload_file_duplex(
        &self,
        request: Request<Streaming<api::UploadFileDuplexRequest>>,
    ) -> Result<Response<Self::UploadFileDuplexStream>, Status> {
        answer(request, async |call, stream| Ok::<_, Fault>(self.transfer.upload_file_duplex(call, stream))).await
    }

    async fn start_upload(
        &self,
        request: Request<api::StartUploadRequest>,
    ) -> Result<Response<api::StartUploadResponse>, Status> {
        answer(request, |call, request| self.transfer.start_upload(call, request)).await
    }

    async fn get_upload_status(
        &self,
        request: Request<api::GetUploadStatusRequest>,
    ) -> Result<Response<api::GetUploadStatusResponse>, Status> {
        answer(request, |call, request| self.transfer.get_upload_status(call, request)).await
    }

    async fn commit_uploads(
        &self,
        request: Request<api::CommitUploadsRequest>,
    ) -> Result<Response<api::CommitUploadsResponse>, Status> {
        answer(request, |call, request| self.transfer.commit_uploads(call, request)).await
    }

    async fn download_file(
        &self,
        request: Request<api::DownloadFileRequest>,
    ) -> Result<Response<Self::DownloadFileStream>, Status> {
        answer(request, |call, request| self.transfer.download_file(call, request)).await
    }

    async fn get_item(&self, request: Request<api::GetItemRequest>) -> Result<Response<api::GetItemResponse>, Status> {
        answer(request, |call, request| self.items.get_item(call, request)).await
    }

    async fn list_folder(
        &self,
        request: Request<api::ListFolderRequest>,
    ) -> Result<Response<api::ListFolderResponse>, Status> {
        answer(request, |call, request| self.items.list_folder(call, request)).await
    }

    async fn walk_folder(
        &self,
        request: Request<api::WalkFolderRequest>,
    ) -> Result<Response<Self::WalkFolderStream>, Status> {
        answer(request, |call, request| self.items.walk_folder(call, request)).await
    }

    async fn plan_sync(
        &self,
        request: Request<Streaming<api::PlanSyncRequest>>,
    ) -> Result<Response<Self::PlanSyncStream>, Status> {
        answer(request, async |call, stream| Ok::<_, Fault>(self.plans.plan_sync(call, stream))).await
    }

    async fn search_items(
        &self,
        request: Request<api::SearchItemsRequest>,
    ) -> Result<Response<api::SearchItemsResponse>, Status> {
        answer(request, |call, request| self.items.search_items(call, request)).await
    }

    async fn create_folder(
        &self,
        request: Request<api::CreateFolderRequest>,
    ) -> Result<Response<api::CreateFolderResponse>, Status> {
        answer(request, |call, request| self.changes.create_folder(call, request)).await
    }

    async fn copy_item(
        &self,
        request: Request<api::CopyItemRequest>,
    ) -> Result<Response<api::CopyItemResponse>, Status> {
        answer(request, |call, request| self.changes.copy_item(call, request)).await
    }

    async fn move_item(
        &self,
        request: Request<api::MoveItemRequest>,
    ) -> Result<Response<api::MoveItemResponse>, Status> {
        answer(request, |call, request| self.changes.move_item(call, request)).await
    }

    async fn delete_item(
        &self,
        request: Request<api::DeleteItemRequest>,
    ) -> Result<Response<api::DeleteItemResponse>, Status> {
        answer(request, |call, request| self.changes.delete_item(call, request)).await
    }

    async fn get_account(
        &self,
        request: Request<api::GetAccountRequest>,
    ) -> Result<Response<api::GetAccountResponse>, Status> {
        answer(request, |call, request| self.items.get_account(call, request)).await
    }

    async fn get_server_info(
        &self,
        request: Request<api::GetServerInfoRequest>,
    ) -> Result<Response<api::GetServerInfoResponse>, Status> {
        answer(request, |call, request| self.about.get_server_info(call, request)).await
    }

    async fn get_file_link(
        &self,
        request: Request<api::GetFileLinkRequest>,
    ) -> Result<Response<api::GetFileLinkResponse>, Status> {
        answer(request, |call, request| self.sharing.get_file_link(call, request)).await
    }

    async fn create_shared_link(
        &self,
        request: Request<api::CreateSharedLinkRequest>,
    ) -> Result<Response<api::CreateSharedLinkResponse>, Status> {
        answer(request, |call, request| self.sharing.create_shared_link(call, request)).await
    }

    async fn list_shared_links(
        &self,
        request: Request<api::ListSharedLinksRequest>,
    ) -> Result<Response<api::ListSharedLinksResponse>, Status> {
        answer(request, |call, request| self.sharing.list_shared_links(call, request)).await
    }

    async fn revoke_shared_link(
        &self,
        request: Request<api::RevokeSharedLinkRequest>,
    ) -> Result<Response<api::RevokeSharedLinkResponse>, Status> {
        answer(request, |call, request| self.sharing.revoke_shared_link(call, request)).await
    }

    async fn watch_events(
        &self,
        request: Request<api::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        pieces::answered(request, |call, request| self.events.watch_events(call, request)).await
    }

    async fn pull_events(
        &self,
        request: Request<api::PullEventsRequest>,
    ) -> Result<Response<api::PullEventsResponse>, Status> {
        answer(request, |call, request| self.events.pull_events(call, request)).await
    }

    async fn get_event_token(
        &self,
        request: Request<api::GetEventTokenRequest>,
    ) -> Result<Response<api::GetEventTokenResponse>, Status> {
        answer(request, |call, request| self.events.get_event_token(call, request)).await
    }

    async fn acknowledge_events(
        &self,
        request: Request<api::AcknowledgeEventsRequest>,
    ) -> Result<Response<api::AcknowledgeEventsResponse>, Status> {
        answer(request, |call, request| self.events.acknowledge_events(call, request)).await
    }

    async fn call_api(&self, request: Request<api::CallApiRequest>) -> Result<Response<api::CallApiResponse>, Status> {
        answer(request, |call, request| self.raw_api.call_api(call, request)).await
    }
}
