"""What proves that a response is the service's, and what its body and its error code are."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc.stores.dynamodb.wire.bodies import MAX_EXPANDED, read_body, read_error
from eventsrc.stores.dynamodb.wire.client import TransportError
from eventsrc.stores.dynamodb.wire.responses import (
    BatchResponse,
    GetResponse,
    Item,
    Metered,
    QueryResponse,
    Response,
    TransactResponse,
    decode,
)
from eventsrc.stores.dynamodb.wire.sdk import SDKReply
from eventsrc.stores.dynamodb.wire.signed_client import JSONReply

KINDS: dict[Any, Any] = {  # each type of a response, and the capacity of one unit
    Response: {"CapacityUnits": 1.0},
    GetResponse[Item]: {"CapacityUnits": 1.0},
    QueryResponse[Item]: {"CapacityUnits": 1.0},
    TransactResponse: [{"CapacityUnits": 1.0}],
    BatchResponse: [{"CapacityUnits": 1.0}],
}

every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
either_client = pytest.mark.parametrize("client", ["signed", "sdk"])


def reply(client: str, body: dict[str, Any], **headers: str) -> Any:
    named = {"content-type": "application/x-amz-json-1.0"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    if client == "signed":
        return JSONReply(json.dumps(body).encode(), named)
    return SDKReply(body | {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": named}})


@either_client
@every_kind
@pytest.mark.parametrize("absent", [{}, {"ConsumedCapacity": None}], ids=str)
@pytest.mark.parametrize("headers", [{}, {"x_amzn_requestid": ""}], ids=str)
def test_an_answer_without_capacity_and_request_id_proves_nothing(
    client: str, kind: Any, absent: Any, headers: Any
) -> None:
    with pytest.raises(TransportError):
        decode(reply(client, {"Items": []} | absent, **headers), kind)


@either_client
@every_kind
def test_an_answer_without_capacity_is_accepted_with_a_request_id(client: str, kind: Any) -> None:
    response: Metered = decode(reply(client, {"Items": []}, x_amzn_requestid="A1"), kind)
    assert response.units == 0


@either_client
@every_kind
def test_an_answer_with_capacity_is_accepted(client: str, kind: Any) -> None:
    response: Metered = decode(reply(client, {"Items": [], "ConsumedCapacity": KINDS[kind]}), kind)
    assert response.units == 1


@either_client
def test_a_query_without_items_is_not_an_empty_page(client: str) -> None:
    with pytest.raises(TransportError):
        decode(reply(client, {}, x_amzn_requestid="A1"), QueryResponse[Item])


@given(st.binary(max_size=2000), st.sampled_from([None, "", "identity", "gzip", "x-gzip", " GZIP "]))
def test_a_body_is_checked_and_expanded(body: bytes, encoding: str | None) -> None:
    sent = gzip.compress(body) if encoding and "gzip" in encoding.lower() else body
    headers = {"x-amz-crc32": str(crc32(sent))} | ({} if encoding is None else {"content-encoding": encoding})
    assert read_body(headers, sent) == body
    with pytest.raises(TransportError):
        read_body(headers | {"x-amz-crc32": str(crc32(sent) ^ 1)}, sent)


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, gzip", "compress", "chunked"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(TransportError):
        read_body({"content-encoding": encoding}, b"{}")


def test_damaged_gzip_data_is_refused() -> None:
    good = gzip.compress(random.Random(1).randbytes(500))
    damaged = [b"", b"{}", good[:-1], good[:-8], good[:20], good + b"x", good + good, good[:-5] + b"\x00" + good[-4:]]
    for body in damaged:
        with pytest.raises(TransportError):
            read_body({"content-encoding": "gzip"}, body)


def test_a_body_that_expands_without_end_is_refused() -> None:
    with pytest.raises(TransportError):
        read_body({"content-encoding": "gzip"}, gzip.compress(bytes(MAX_EXPANDED + 1), 1))


NAMESPACE, URI = "com.amazonaws.dynamodb.v20120810", "http://internal.example/coral/#v1:2"


@pytest.mark.parametrize("form", ["X", f"{NAMESPACE}#X", f"X:{URI}", f"{NAMESPACE}#X:{URI}", " X "])
@pytest.mark.parametrize("field", ["__type", "code", "Code", "header"])
def test_the_code_of_an_error_is_found_in_every_form(field: str, form: str) -> None:
    headers = {"x-amzn-errortype": form} if field == "header" else {}
    body = {"message": "no"} | ({} if field == "header" else {field: form})
    assert read_error(headers, json.dumps(body).encode()) == ("X", "no")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"__type": 5}', b'{"__type": null}', b'{"code": 400}']
)
def test_a_body_without_a_code_leaves_that_of_the_header(body: bytes) -> None:
    assert read_error({}, body)[0] == ""
    assert read_error({"x-amzn-errortype": "X"}, body)[0] == "X"
