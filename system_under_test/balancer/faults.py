"""The filter that lets requests fail or wait on demand; part of the configuration only where it is asked for."""

from typing import Any, Final

RUNTIME: Final = {"layers": [{"name": "administration", "admin_layer": {}}]}
"""A layer of settings that the administration's /runtime_modify changes."""


def fault_filter(prefix: str, *, key: str | None = None) -> dict[str, Any]:
    """A filter that can abort and delay the requests below `prefix`, when the runtime settings say so."""
    # The keys of "/" are those that Envoy has by itself: fault.http.abort.abort_percent and so on.
    key = key or ".".join(filter(None, ("fault.http", *prefix.split("/"))))
    never = {"numerator": 0, "denominator": "MILLION"}
    matching = {} if prefix == "/" else {"headers": [{"name": ":path", "string_match": {"prefix": prefix}}]}
    return {
        "name": f"envoy.filters.http.fault{prefix.rstrip('/')}",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": {"http_status": 503, "percentage": never},
            "abort_percent_runtime": f"{key}.abort.abort_percent",
            "abort_http_status_runtime": f"{key}.abort.http_status",
            "delay": {"fixed_delay": "0.001s", "percentage": never},
            "delay_percent_runtime": f"{key}.delay.fixed_delay_percent",
            "delay_duration_runtime": f"{key}.delay.fixed_duration_ms",
            **matching,
        },
    }
