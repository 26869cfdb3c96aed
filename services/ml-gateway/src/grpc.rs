//! The service over gRPC.

use proto::ml::{
    GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, ScoreRequest, ScoreResponse,
    ml_gateway_service_server::MlGatewayService,
};
use service::{Caller, Scope};
use tonic::{Request, Response, Status};

use crate::score::Api;

#[tonic::async_trait]
impl MlGatewayService for Api {
    async fn score(&self, request: Request<ScoreRequest>) -> Result<Response<ScoreResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        caller.require(Scope::Read)?;
        Ok(Response::new(Api::score(self, caller.tenant_name(), request.into_inner()).await?))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Caller::of(request.extensions())?.require(Scope::Read)?;
        Ok(Response::new(self.list()))
    }

    async fn get_model(
        &self,
        request: Request<GetModelRequest>,
    ) -> Result<Response<GetModelResponse>, Status> {
        Caller::of(request.extensions())?.require(Scope::Read)?;
        let asked = request.get_ref();
        Ok(Response::new(self.model(&asked.model, &asked.version)?))
    }
}
