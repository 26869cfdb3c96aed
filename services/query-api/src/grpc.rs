//! The service over gRPC.

use proto::query::{
    GetConversionRequest, GetConversionResponse, GetJourneyRequest, GetJourneyResponse, RunReportRequest,
    RunReportResponse, query_service_server::QueryService,
};
use service::Caller;
use tonic::{Request, Response, Status};

use crate::api::Api;

#[tonic::async_trait]
impl QueryService for Api {
    async fn run_report(
        &self,
        request: Request<RunReportRequest>,
    ) -> Result<Response<RunReportResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let (answer, _) = self.report(&caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn get_conversion(
        &self,
        request: Request<GetConversionRequest>,
    ) -> Result<Response<GetConversionResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let decision = self.conversion(&caller, &request.get_ref().event_id).await?;
        Ok(Response::new(GetConversionResponse { decision: Some(decision) }))
    }

    async fn get_journey(
        &self,
        request: Request<GetJourneyRequest>,
    ) -> Result<Response<GetJourneyResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.journey(&caller, request.into_inner()).await?))
    }
}
