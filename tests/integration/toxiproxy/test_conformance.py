"""The HTTP interface, request by request, as Toxiproxy 2.12.0 answers it.

    HOLDFAST_TOXIPROXY_URL=http://127.0.0.1:8474 pytest tests/integration/toxiproxy/test_conformance.py

asks any other server the same. Bodies are compared byte for byte, with ports that the server chose put in.
"""

import socket

import pytest

from tests.integration.toxiproxy.client import Answer, Client

JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
UP = "127.0.0.1:1"
REQUEST_ID = "x-toxiproxy-request-id"
CUT_OFF = "bad request body: unexpected EOF"
NO_VALUE = "bad request body: invalid character 'a' looking for beginning of value"
BAD_STREAM = "stream was invalid, can be either upstream or downstream"


def refused(answer: Answer, status: int, message: str) -> None:
    """Asserts that an answer is an error as the interface tells it."""
    escaped = message.replace("\\", "\\\\").replace('"', '\\"')
    assert answer.body.decode() == f'{{"error":"{escaped}","status":{status}}}\n'
    assert answer.status == status
    assert answer.headers["content-type"] == PLAIN
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers[REQUEST_ID]


def given(answer: Answer, status: int, body: str) -> None:
    """Asserts that an answer is this JSON, key by key."""
    assert answer.body.decode() == body
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    assert answer.headers[REQUEST_ID]
    assert "server" not in answer.headers


def empty(answer: Answer) -> None:
    """Asserts that an answer says: done."""
    assert (answer.status, answer.body) == (204, b"")
    assert "content-type" not in answer.headers
    assert answer.headers[REQUEST_ID]


def shown(name: str, listen: str, *, upstream: str = UP, enabled: bool = True, toxics: str = "") -> str:
    """A proxy as it is shown."""
    state = "true" if enabled else "false"
    return (
        f'{{"name":"{name}","listen":"{listen}","upstream":"{upstream}","enabled":{state},"Logger":{{}},'
        f'"toxics":[{toxics}]}}'
    )


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def proxied(any_server: Client) -> Client:
    """A server with the proxy `p`."""
    any_server.proxy(UP)
    return any_server


def test_the_version_is_told(any_server: Client) -> None:
    """With a space after the colon, a line feed, and a content type of its own."""
    answer = any_server.ask("GET", "/version")

    assert (answer.status, answer.body) == (200, b'{"version": "2.12.0"}\n')
    assert answer.headers["content-type"] == "application/json;charset=utf-8"


def test_no_proxies_are_an_empty_map(any_server: Client) -> None:
    """A map, not a list."""
    given(any_server.ask("GET", "/proxies"), 200, "{}")


def test_a_created_proxy_is_answered_as_it_listens(any_server: Client) -> None:
    """`localhost` and port 0 become the address; toxics in the body are ignored; keys match in any case."""
    body = '{"NAME":"p","Listen":"localhost:0","upstream":"127.0.0.1:1","toxics":[{"type":"latency"}],"more":[1,{}]}'

    answer = any_server.ask("POST", "/proxies", body)

    listen = answer.json["listen"]
    assert listen.startswith("127.0.0.1:")
    assert not listen.endswith(":0")
    given(answer, 201, shown("p", listen))
    given(any_server.ask("GET", "/proxies/p"), 200, shown("p", listen))
    given(any_server.ask("GET", "/proxies"), 200, f'{{"p":{shown("p", listen)}}}')


def test_a_disabled_proxy_keeps_the_address_as_given(any_server: Client) -> None:
    """It was never started, so nothing was looked up."""
    body = {"name": "p", "listen": "localhost:0", "upstream": UP, "enabled": False}

    given(any_server.ask("POST", "/proxies", body), 201, shown("p", "localhost:0", enabled=False))


def test_an_address_without_host_means_all_addresses(any_server: Client) -> None:
    """Both families, shown as IPv6."""
    answer = any_server.ask("POST", "/proxies", {"name": "p", "upstream": UP})

    assert answer.json["listen"].startswith("[::]:")


def test_proxies_are_shown_in_the_order_of_their_names(any_server: Client) -> None:
    """Not in that of their creation."""
    for name in ("c", "a", "b"):
        any_server.proxy(UP, name)

    assert list(any_server.ask("GET", "/proxies").json) == ["a", "b", "c"]


def test_html_is_escaped_in_answers(any_server: Client) -> None:
    """As Go's encoder does it."""
    body = {"name": "a<b>&é", "listen": "x", "upstream": UP, "enabled": False}

    given(any_server.ask("POST", "/proxies", body), 201, shown("a\\u003cb\\u003e\\u0026é", "x", enabled=False))
    empty(any_server.ask("DELETE", "/proxies/a%3Cb%3E%26%C3%A9"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "bad request body: EOF"),
        (" \n", "bad request body: EOF"),
        ("{", CUT_OFF),
        ('{"name":"p"', CUT_OFF),
        ("abc", NO_VALUE),
        ("{a}", "bad request body: invalid character 'a' looking for beginning of object key string"),
        ('{"name" 1}', "bad request body: invalid character '1' after object key"),
        ('{"name":"p",}', "bad request body: invalid character '}' looking for beginning of object key string"),
        ('{"a":[1 2]}', "bad request body: invalid character '2' after array element"),
        ('{"a":tru}', "bad request body: invalid character '}' in literal true (expecting 'e')"),
        ('{"a":01}', "bad request body: invalid character '1' after object key:value pair"),
        (
            '{"name":1}',
            "bad request body: json: cannot unmarshal number into Go struct field Proxy.name of type string",
        ),
        (
            '{"name":"p","enabled":"yes"}',
            "bad request body: json: cannot unmarshal string into Go struct field Proxy.enabled of type bool",
        ),
        ("[]", "bad request body: json: cannot unmarshal array into Go value of type toxiproxy.Proxy"),
        ("{}", "missing required field: name"),
        ('{"name":""}', "missing required field: name"),
        ('{"name":"p"}', "missing required field: upstream"),
    ],
)
def test_a_proxy_that_cannot_be_read_is_refused(any_server: Client, body: str, message: str) -> None:
    """Nothing is created."""
    refused(any_server.ask("POST", "/proxies", body), 400, message)
    assert any_server.ask("GET", "/proxies").json == {}


def test_what_follows_the_first_value_of_a_body_is_ignored(any_server: Client) -> None:
    """Only one value is decoded."""
    body = '{"name":"p","listen":"x","upstream":"y","enabled":false} trailing {'

    assert any_server.ask("POST", "/proxies", body).status == 201


def test_a_name_can_be_used_once(proxied: Client) -> None:
    """The second one is a conflict."""
    refused(proxied.ask("POST", "/proxies", {"name": "p", "upstream": UP}), 409, "proxy already exists")


def test_a_port_in_use_is_told(any_server: Client) -> None:
    """In the words of Go's net package; nothing is created."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = any_server.ask("POST", "/proxies", {"name": "p", "listen": address, "upstream": UP})

    refused(answer, 500, f"listen tcp {address}: bind: address already in use")
    assert any_server.ask("GET", "/proxies").json == {}


def test_an_address_without_port_is_told(any_server: Client) -> None:
    """Differently where an address is only compared."""
    wrong = {"name": "q", "listen": "nohost", "upstream": UP}
    refused(any_server.ask("POST", "/proxies", wrong), 500, "listen tcp: address nohost: missing port in address")
    any_server.proxy(UP)

    refused(any_server.ask("POST", "/proxies/p", {"listen": "bogus"}), 500, "address bogus: missing port in address")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/proxies/no"),
        ("POST", "/proxies/no"),
        ("PATCH", "/proxies/no"),
        ("DELETE", "/proxies/no"),
        ("GET", "/proxies/no/toxics"),
        ("POST", "/proxies/no/toxics"),
        ("GET", "/proxies/no/toxics/t"),
        ("POST", "/proxies/no/toxics/t"),
        ("DELETE", "/proxies/no/toxics/t"),
    ],
)
def test_an_unknown_proxy_comes_before_everything_else(any_server: Client, method: str, path: str) -> None:
    """Before the body, and before the toxic."""
    refused(any_server.ask(method, path, "{" if method != "GET" else None), 404, "proxy not found")


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_update_changes_what_it_names(proxied: Client, method: str) -> None:
    """The name is ignored, what is missing stays, and other addresses move the proxy."""
    listen = proxied.ask("GET", "/proxies/p").json["listen"]
    given(proxied.ask(method, "/proxies/p", {"name": "q"}), 200, shown("p", listen))
    given(
        proxied.ask(method, "/proxies/p", {"upstream": "127.0.0.1:2"}), 200, shown("p", listen, upstream="127.0.0.1:2")
    )
    moved = f"127.0.0.1:{free_port()}"

    given(proxied.ask(method, "/proxies/p", {"listen": moved, "upstream": UP}), 200, shown("p", moved))


def test_a_proxy_is_switched_off_and_on(proxied: Client) -> None:
    """It keeps its port meanwhile, at which nothing listens."""
    listen = proxied.ask("GET", "/proxies/p").json["listen"]
    given(proxied.ask("POST", "/proxies/p", {"enabled": False}), 200, shown("p", listen, enabled=False))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(listen.rpartition(":")[2])))

    given(proxied.ask("POST", "/proxies/p", {"enabled": True}), 200, shown("p", listen))


def test_a_proxy_that_cannot_move_has_the_new_address_and_is_off(proxied: Client) -> None:
    """So that what is shown is what was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = proxied.ask("POST", "/proxies/p", {"listen": address})

    refused(answer, 500, f"listen tcp {address}: bind: address already in use")
    given(proxied.ask("GET", "/proxies/p"), 200, shown("p", address, enabled=False))


def test_a_deleted_proxy_is_gone(proxied: Client) -> None:
    """Its port, too."""
    port = int(proxied.ask("GET", "/proxies/p").json["listen"].rpartition(":")[2])
    empty(proxied.ask("DELETE", "/proxies/p"))

    refused(proxied.ask("GET", "/proxies/p"), 404, "proxy not found")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


TOXICS = {
    "latency": '{"latency":0,"jitter":0}',
    "bandwidth": '{"rate":0}',
    "slow_close": '{"delay":0}',
    "timeout": '{"timeout":0}',
    "reset_peer": '{"timeout":0}',
    "slicer": '{"average_size":0,"size_variation":0,"delay":0}',
    "limit_data": '{"bytes":0}',
    "noop": "{}",
}


@pytest.mark.parametrize("kind", list(TOXICS))
def test_every_toxic_is_shown_with_all_its_attributes(proxied: Client, kind: str) -> None:
    """Added with its type alone: downstream, in force on all connections, with the attributes' zeros."""
    text = (
        f'{{"attributes":{TOXICS[kind]},"name":"{kind}_downstream","type":"{kind}","stream":"downstream","toxicity":1}}'
    )

    given(proxied.ask("POST", "/proxies/p/toxics", {"type": kind}), 200, text)
    given(proxied.ask("GET", f"/proxies/p/toxics/{kind}_downstream"), 200, text)
    given(proxied.ask("GET", "/proxies/p/toxics"), 200, f"[{text}]")
    listen = proxied.ask("GET", "/proxies/p").json["listen"]
    given(proxied.ask("GET", "/proxies/p"), 200, shown("p", listen, toxics=text))


def test_toxics_upstream_are_shown_first(proxied: Client) -> None:
    """Then those downstream, each in the order in which they were added."""
    given(proxied.ask("GET", "/proxies/p/toxics"), 200, "[]")
    for name, stream in (("d1", "downstream"), ("u1", "upstream"), ("d2", "downstream"), ("u2", "upstream")):
        proxied.ask("POST", "/proxies/p/toxics", {"name": name, "type": "noop", "stream": stream})

    assert [one["name"] for one in proxied.ask("GET", "/proxies/p/toxics").json] == ["u1", "u2", "d1", "d2"]


def test_a_stream_is_shown_as_it_was_given(proxied: Client) -> None:
    """In any case of letters, also in the name made of it."""
    answer = proxied.ask("POST", "/proxies/p/toxics", {"type": "noop", "stream": "UPSTREAM"})

    given(answer, 200, '{"attributes":{},"name":"noop_UPSTREAM","type":"noop","stream":"UPSTREAM","toxicity":1}')


@pytest.mark.parametrize(
    ("given_as", "shown_as"),
    [("0.33333333", "0.33333334"), ("7", "7"), ("-1", "-1"), ("0", "0"), ("0.1", "0.1"), ("1e-7", "1e-7")],
)
def test_a_toxicity_is_a_number_of_32_bits(proxied: Client, given_as: str, shown_as: str) -> None:
    """Its range is not checked."""
    answer = proxied.ask("POST", "/proxies/p/toxics", f'{{"type":"noop","toxicity":{given_as}}}')

    assert answer.body.decode().endswith(f'"toxicity":{shown_as}}}')


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "bad request body: EOF"),
        ('{"type":"noop","stream":"sideways"}', 400, BAD_STREAM),
        ('{"type":"noop","stream":""}', 400, BAD_STREAM),
        ('{"type":"nothing","stream":"sideways"}', 400, BAD_STREAM),
        ('{"type":"nothing"}', 400, "invalid toxic type"),
        ("{}", 400, "invalid toxic type"),
        ('{"type":"down"}', 400, "invalid toxic type"),
        ('{"type":"packet_loss"}', 400, "invalid toxic type"),
        ('{"type":"noop","name":"there"}', 409, "toxic already exists"),
        ('{"type":"noop","name":"there","stream":"upstream"}', 409, "toxic already exists"),
        (
            '{"type":"latency","attributes":{"latency":"x"}}',
            400,
            "bad request body: json: cannot unmarshal string into Go struct field .attributes.latency of type int64",
        ),
        (
            '{"type":"latency","attributes":{"jitter":1.0}}',
            400,
            "bad request body: json: cannot unmarshal number 1.0 into Go struct field .attributes.jitter of type int64",
        ),
    ],
)
def test_a_toxic_that_cannot_be_added_is_refused(proxied: Client, body: str, status: int, message: str) -> None:
    """The stream is looked at before the type, and the name before the attributes."""
    proxied.ask("POST", "/proxies/p/toxics", {"type": "noop", "name": "there"})

    refused(proxied.ask("POST", "/proxies/p/toxics", body), status, message)
    assert len(proxied.ask("GET", "/proxies/p/toxics").json) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_update_of_a_toxic_merges_its_attributes(proxied: Client, method: str) -> None:
    """Key by key; name, type and stream are ignored."""
    proxied.ask("POST", "/proxies/p/toxics", {"type": "latency", "attributes": {"latency": 5, "jitter": 3}})
    change = {"name": "x", "type": "noop", "stream": "upstream", "attributes": {"jitter": 2}, "toxicity": 0.5}

    given(
        proxied.ask(method, "/proxies/p/toxics/latency_downstream", change),
        200,
        '{"attributes":{"latency":5,"jitter":2},"name":"latency_downstream","type":"latency","stream":"downstream",'
        '"toxicity":0.5}',
    )


def test_an_update_that_cannot_be_read_changes_nothing(proxied: Client) -> None:
    """And an unknown toxic is told before the body is read."""
    proxied.ask("POST", "/proxies/p/toxics", {"type": "latency", "attributes": {"latency": 5}})
    refused(proxied.ask("POST", "/proxies/p/toxics/none", "{"), 404, "toxic not found")
    refused(proxied.ask("POST", "/proxies/p/toxics/latency_downstream", "{"), 400, CUT_OFF)

    assert proxied.ask("GET", "/proxies/p/toxics/latency_downstream").json["attributes"] == {"latency": 5, "jitter": 0}


def test_a_removed_toxic_is_gone(proxied: Client) -> None:
    """Removing it again is an error."""
    proxied.toxic("noop")
    empty(proxied.ask("DELETE", "/proxies/p/toxics/noop_downstream"))

    refused(proxied.ask("DELETE", "/proxies/p/toxics/noop_downstream"), 404, "toxic not found")
    refused(proxied.ask("GET", "/proxies/p/toxics/noop_downstream"), 404, "toxic not found")


def test_a_reset_starts_proxies_and_removes_toxics(proxied: Client) -> None:
    """Whatever the body is."""
    proxied.toxic("latency", latency=1)
    proxied.ask("POST", "/proxies/p", {"enabled": False})
    empty(proxied.ask("POST", "/reset", "{nonsense"))

    after = proxied.ask("GET", "/proxies/p").json
    assert (after["enabled"], after["toxics"]) == (True, [])


def test_proxies_are_populated(any_server: Client) -> None:
    """All of them are answered, in the order of the list."""
    listed = [{"name": name, "listen": "127.0.0.1:0", "upstream": UP} for name in ("b", "a")]

    answer = any_server.ask("POST", "/populate", listed)

    ports = [one["listen"] for one in answer.json["proxies"]]
    given(answer, 201, f'{{"proxies":[{shown("b", ports[0])},{shown("a", ports[1])}]}}')


def test_an_empty_list_populates_nothing(any_server: Client) -> None:
    """Which Go shows as null."""
    given(any_server.ask("POST", "/populate", "[]"), 201, '{"proxies":null}')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "bad request body: EOF"),
        ('[{"name":"a","upstream":"b"},{"upstream":"c"}]', "missing required field: name at proxy 2"),
        ('[{"name":"a"}]', "missing required field: upstream at proxy 1"),
    ],
)
def test_a_list_that_cannot_be_read_creates_nothing(any_server: Client, body: str, message: str) -> None:
    """Told as JSON with the proxies that were made, and without a line feed."""
    given(any_server.ask("POST", "/populate", body), 400, f'{{"error":"{message}","status":400,"proxies":null}}')
    assert any_server.ask("GET", "/proxies").json == {}


def test_a_list_that_fails_midway_keeps_what_it_made(any_server: Client) -> None:
    """And tells it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listed = [
            {"name": "a", "listen": "127.0.0.1:0", "upstream": UP},
            {"name": "b", "listen": address, "upstream": UP},
        ]
        answer = any_server.ask("POST", "/populate", listed)

    made = answer.json["proxies"][0]["listen"]
    problem = f"listen tcp {address}: bind: address already in use"
    given(answer, 500, f'{{"error":"{problem}","status":500,"proxies":[{shown("a", made)}]}}')
    assert list(any_server.ask("GET", "/proxies").json) == ["a"]


def test_populating_the_same_again_changes_nothing(proxied: Client) -> None:
    """Toxics stay, and a proxy that is off stays off; with another upstream it is replaced."""
    proxied.toxic("noop")
    proxied.ask("POST", "/proxies/p", {"enabled": False})
    same = {"name": "p", "listen": proxied.ask("GET", "/proxies/p").json["listen"], "upstream": UP, "enabled": True}

    assert proxied.ask("POST", "/populate", [same]).status == 201
    after = proxied.ask("GET", "/proxies/p").json
    assert (after["enabled"], len(after["toxics"])) == (False, 1)

    assert proxied.ask("POST", "/populate", [same | {"upstream": "127.0.0.1:2"}]).status == 201
    after = proxied.ask("GET", "/proxies/p").json
    assert (after["enabled"], after["toxics"], after["upstream"]) == (True, [], "127.0.0.1:2")


@pytest.mark.parametrize("path", ["/", "/nothing", "/proxies/", "/proxies/p/", "/proxies/p%2Fq", "/version/"])
def test_an_unknown_path_is_not_found(any_server: Client, path: str) -> None:
    """In plain text, and without the id that routed requests get."""
    answer = any_server.ask("GET", path)

    assert (answer.status, answer.body) == (404, b"404 page not found\n")
    assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (PLAIN, "nosniff")
    assert REQUEST_ID not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/proxies"), ("GET", "/reset"), ("HEAD", "/proxies"), ("DELETE", "/version")]
)
def test_a_wrong_method_is_refused(any_server: Client, method: str, path: str) -> None:
    """Without a body and without a type."""
    answer = any_server.ask(method, path)

    assert (answer.status, answer.body) == (405, b"")
    assert "content-type" not in answer.headers
    assert REQUEST_ID not in answer.headers


@pytest.mark.parametrize("path", ["/version", "/proxies", "/proxies/no"])
def test_browsers_are_refused(any_server: Client, path: str) -> None:
    """By the beginning of their name."""
    answer = any_server.ask("GET", path, headers={"User-Agent": "Mozilla/5.0"})

    assert (answer.status, answer.body) == (403, b"User agent not allowed\n")
    assert answer.headers["content-type"] == PLAIN
