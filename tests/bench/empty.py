"""A device plugin that does nothing: what gRPC alone takes for an answer."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb


async def _allocate(
    _request: pb.AllocateRequest, _context: grpc.aio.ServicerContext[Any, Any]
) -> pb.AllocateResponse:
    return pb.AllocateResponse()


async def _serve(socket: str) -> None:
    allocate = grpc.unary_unary_rpc_method_handler(
        _allocate,
        request_deserializer=pb.AllocateRequest.FromString,
        response_serializer=pb.AllocateResponse.SerializeToString,
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", {"Allocate": allocate}),)
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
