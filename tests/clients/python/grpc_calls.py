"""The calls of proto/family.proto, health and reflection through grpcio: grpc_calls.py GRPC_ADDRESS PROTO_FOLDER [CERTS]."""

import asyncio
import sys
import tempfile
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc
from tally import tally

address, protos, *certs = sys.argv[1:]
made = tempfile.TemporaryDirectory()
if protoc.main(["protoc", f"-I{protos}", f"--python_out={made.name}", f"--grpc_python_out={made.name}", "family.proto"]):
    sys.exit("protoc could not read family.proto")
sys.path.insert(0, made.name)
import family_pb2 as f  # noqa: E402
import family_pb2_grpc  # noqa: E402



def connect(folder, name):
    ca, *pair = [(Path(folder) / f"{file}.pem").read_bytes() for file in ["ca", *([f"{name}-key", name] if name else [])]]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, *pair))


channel = connect(certs[0], "client-app") if certs else grpc.insecure_channel(address)
family = family_pb2_grpc.FamilyServiceStub(channel)


def store(timeout=30, **message):
    return family.StoreMessage(f.StoreRequest(chat_message=f.ChatMessage(**message)), timeout=timeout)


def code(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()


def stores_and_gets():
    stored = store(message_id=7, message="Merhaba Dünya")
    assert stored.success and len(stored.stored_nodes) == 2, stored
    got = family.GetMessage(f.GetRequest(message_id=7), timeout=30)
    assert got.found and got.chat_message.message == "Merhaba Dünya", got
    assert {node.node_id for node in got.nodes} == {node.node_id for node in stored.stored_nodes}


def any_bytes():
    key, body = b"grpc-py:\r\n\xff \x00", bytes(range(256))
    assert store(key=key, body=body).success
    assert family.GetMessage(f.GetRequest(key=key), timeout=30).chat_message.body == body


def not_found():
    got = family.GetMessage(f.GetRequest(id="grpc-py:none"), timeout=30)
    assert not got.found and got.chat_message == f.ChatMessage(), got


def lists_messages():
    wanted = {f"grpc-py:list:{n}": f"message {n}" for n in range(2000)}
    for start in range(0, 2000, 100):
        some = [f.ChatMessage(id=f"grpc-py:list:{n}", message=f"message {n}") for n in range(start, start + 100)]
        calls = [family.StoreMessage.future(f.StoreRequest(chat_message=one), timeout=30) for one in some]
        assert all(call.result().success for call in calls)
    listed = [one for one in family.ListMessages(f.Empty(), timeout=60) if one.id in wanted]
    assert len(listed) == 2000 and {one.id: one.message for one in listed} == wanted


def lists_nodes():
    nodes = list(family.ListNodes(f.Empty(), timeout=30))
    assert sorted(node.node_id for node in nodes) == [1, 2, 3], nodes
    assert all(node.state == "up" and ":" in node.address for node in nodes), nodes


def deadlines():
    assert store(message_id=8, message="in time", timeout=30).success
    assert code(lambda: list(family.ListMessages(f.Empty(), timeout=0.001))) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert family.GetMessage(f.GetRequest(message_id=8), timeout=30).found


def over_the_limit():
    assert store(id="grpc-py:largest", body=b"x" * (1 << 20)).success
    larger = store(id="grpc-py:larger", body=b"x" * ((1 << 20) + 1))  # a refusal is an answer, a request too long a status
    assert not larger.success and larger.error.startswith("TOO_LARGE"), larger
    assert code(lambda: store(id="grpc-py:huge", body=b"x" * (8 << 20))) == grpc.StatusCode.OUT_OF_RANGE
    assert not family.GetMessage(f.GetRequest(id="grpc-py:larger"), timeout=30).found


def health():
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "family.FamilyService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer
    unknown = health_pb2.HealthCheckRequest(service="unknown")
    assert code(lambda: stub.Check(unknown, timeout=30)) == grpc.StatusCode.NOT_FOUND


def reflection():
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"family.FamilyService", "grpc.health.v1.Health"} <= set(services), services


def refuses(other):
    stub = family_pb2_grpc.FamilyServiceStub(other)
    assert code(lambda: stub.GetMessage(f.GetRequest(message_id=7), timeout=30)) == grpc.StatusCode.UNAVAILABLE


def without_a_certificate():
    refuses(connect(certs[0], None))


def without_tls():
    refuses(grpc.insecure_channel(address))


CHECKS = [stores_and_gets, any_bytes, not_found, lists_messages, lists_nodes, deadlines, over_the_limit, health, reflection]
TLS = [without_a_certificate, without_tls] if certs else []
sys.exit(asyncio.run(tally("grpcio, mutual TLS" if certs else "grpcio", "grpcio", CHECKS + TLS)))
