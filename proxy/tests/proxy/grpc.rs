//! gRPC, by a real client and a real server of it.

use bytes::{Buf, BufMut, Bytes};
use http::Uri;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::over_http2::Replica;
use crate::support::*;

/// Messages that are bytes.
#[derive(Debug, Default, Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

type Messages = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Says what it was told.
#[derive(Clone)]
struct Echo;

impl tonic::server::UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let mut response = Response::new(request.get_ref().clone());
        let metadata = request.metadata();
        response.metadata_mut().insert("saw", metadata.get("mine").unwrap().clone());
        std::future::ready(match request.get_ref().as_ref() {
            b"fail" => Err(Status::failed_precondition("as it was asked to, ä")),
            _ => Ok(response),
        })
    }
}

impl tonic::server::StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = std::future::Ready<Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let echoed = request.into_inner().map(|message| match message {
            Ok(message) if message == "fail" => Err(Status::aborted("enough")),
            message => message,
        });
        std::future::ready(Ok(Response::new(Box::pin(echoed))))
    }
}

/// Serves at `replica` until the test ends.
fn serve(replica: Replica) {
    tokio::spawn(async move {
        loop {
            let stream = replica.listener.accept().await.unwrap().0;
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async {
                let mut grpc = tonic::server::Grpc::new(Plain);
                Ok::<_, std::convert::Infallible>(match request.uri().path() {
                    "/test.Echo/Once" => grpc.unary(Echo, request).await,
                    "/test.Echo/Chat" => grpc.streaming(Echo, request).await,
                    _ => Status::unimplemented("no such method").into_http(),
                })
            });
            tokio::spawn(async move {
                let http = auto::Builder::new(TokioExecutor::new());
                http.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
}

/// A client of the function, which is below a path or has a host of its own.
async fn client(proxy: &Proxy, origin: &'static str) -> tonic::client::Grpc<Channel> {
    let origin = Uri::from_static(origin);
    let channel = Channel::from_shared(format!("http://{}", proxy.address)).unwrap().origin(origin.clone());
    let mut grpc = tonic::client::Grpc::with_origin(channel.connect().await.unwrap(), origin);
    grpc.ready().await.unwrap();
    grpc
}

#[tokio::test]
async fn a_grpc_client_and_a_grpc_function_understand_each_other() {
    let (proxy, replica) = (Proxy::start().await, Replica::start().await);
    let upstream = proxy.function("f", &[]);
    upstream.publish(vec![replica.endpoint.clone()]);
    proxy.routes.set_domains(upstream.key(), &["grpc.example".to_owned()]);
    serve(replica);
    for origin in ["http://grpc.example", "http://h.example/function/f"] {
        let mut grpc = client(&proxy, origin).await;
        let path = || http::uri::PathAndQuery::from_static("/test.Echo/Once");
        let ask = |message: &'static str| {
            let mut request = Request::new(Bytes::from_static(message.as_bytes()));
            request.metadata_mut().insert("mine", "1".parse().unwrap());
            request
        };
        let answer = within(grpc.unary(ask("hello"), path(), Plain)).await.unwrap();
        assert_eq!(
            (answer.get_ref(), answer.metadata().get("saw").unwrap().to_str().unwrap()),
            (&Bytes::from("hello"), "1")
        );
        grpc.ready().await.unwrap();
        let error = within(grpc.unary(ask("fail"), path(), Plain)).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "as it was asked to, ä"));
        grpc.ready().await.unwrap();
        let unknown = http::uri::PathAndQuery::from_static("/test.Echo/Other");
        assert_eq!(
            within(grpc.unary(ask("x"), unknown, Plain)).await.unwrap_err().code(),
            Code::Unimplemented
        );
        // Each message is answered before the next is sent, until one is that ends it with a status.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
        grpc.ready().await.unwrap();
        let chat = http::uri::PathAndQuery::from_static("/test.Echo/Chat");
        let mut echoed =
            within(grpc.streaming(Request::new(messages), chat, Plain)).await.unwrap().into_inner();
        for message in ["one", "two", "three"] {
            sender.send(Bytes::from(message)).await.unwrap();
            assert_eq!(within(echoed.message()).await.unwrap().unwrap(), message);
        }
        sender.send(Bytes::from("fail")).await.unwrap();
        assert_eq!(within(echoed.message()).await.unwrap_err().code(), Code::Aborted);
        until(|| upstream.load().in_flight == 0).await;
    }
}
