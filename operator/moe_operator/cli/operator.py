"""`moe operator run`: the operator's process."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moe_operator.engines import Images
    from moe_operator.webhook import Settings as WebhookSettings

IdentityOption = Annotated[
    str | None,
    typer.Option(
        "--identity",
        envvar="POD_NAME",
        help="Name of this process among all operators; by default its host's and a number of its own.",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", envvar="POD_NAMESPACE", help="Where its Lease is; by default its credentials'."),
]
WatchNamespaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--watch-namespace",
        metavar="NAMESPACE",
        help="Run the MoEDeployments of this namespace alone, with the rights that it takes; may be repeated.",
    ),
]
LeaseOption = Annotated[str, typer.Option("--lease", help="Name of the Lease that the leading operator holds.")]
OwnerOption = Annotated[
    str | None,
    typer.Option(
        "--owner",
        metavar="CLUSTERROLE",
        help="ClusterRole that owns the Lease, and the webhook's configuration and Secret: they go when it goes.",
    ),
]
ImageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="ENGINE=IMAGE",
        help="Image of an engine (moe, sglang, vllm, tensorrt-llm) where a manifest names none; may be repeated.",
    ),
]
HealthPortOption = Annotated[
    int, typer.Option("--health-port", min=0, max=65535, help="Of /healthz, /readyz and /metrics; 0: none.")
]
WebhookOption = Annotated[
    str,
    typer.Option(
        "--webhook",
        metavar="service|off|URL",
        help="How the API server reaches the admission webhook: by a Service, not at all, or at https://HOST:PORT.",
    ),
]
WebhookPortOption = Annotated[
    int, typer.Option("--webhook-port", min=1, max=65535, help="Port that the webhook listens on.")
]
WebhookCertificatesOption = Annotated[
    Path | None,
    typer.Option(
        "--webhook-certificates",
        metavar="DIR",
        help="Folder with tls.crt, tls.key and ca.crt, as a Secret of cert-manager is mounted; by default the "
        "operator makes and renews its own.",
    ),
]
WatchSilenceOption = Annotated[
    float,
    typer.Option("--watch-silence", min=1, help="Seconds after which a watch that says nothing begins anew."),
]
LogLevelOption = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]

app = typer.Typer(name="operator", help="The Kubernetes operator.", no_args_is_help=True)


@app.callback()
def operator() -> None:
    """The Kubernetes operator."""


@app.command()
def run(
    identity: IdentityOption = None,
    namespace: NamespaceOption = None,
    watch_namespace: WatchNamespaceOption = None,
    lease: LeaseOption = "moe-operator",
    owner: OwnerOption = None,
    image: ImageOption = None,
    health_port: HealthPortOption = 8080,
    webhook: WebhookOption = "service",
    webhook_port: WebhookPortOption = 9443,
    webhook_certificates: WebhookCertificatesOption = None,
    watch_silence: WatchSilenceOption = 70.0,
    log_level: LogLevelOption = "info",
) -> None:
    """Bring MoEDeployments to what they should be, until told to stop."""
    import asyncio

    from moe_operator.access import AccessError, find_access
    from moe_operator.process import OutdatedError, Settings, run

    _log(log_level)
    images = _images(image or ())
    try:
        access = find_access()
        home = namespace or access.namespace
        namespaces = tuple(dict.fromkeys(watch_namespace or ()))
        settings = Settings(
            identity=identity or _own_name(),
            lease_namespace=home,
            lease_name=lease,
            images=images,
            owner=owner,
            namespaces=namespaces,
            health_port=health_port or None,
            watch_silence_s=watch_silence,
            webhook=_webhook(
                webhook,
                name=lease,
                namespaces=namespaces,
                namespace=home,
                images=images,
                port=webhook_port,
                certificates=webhook_certificates,
            ),
        )
        asyncio.run(run(access, settings))
    except (AccessError, OutdatedError) as error:
        print(f"moe operator: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _webhook(how: str, **settings: Any) -> "WebhookSettings | None":
    from moe_operator.webhook import Settings

    if how == "off":
        return None
    if how == "service":
        return Settings(**settings)
    if how.startswith("https://"):
        return Settings(url=how, **settings)
    raise typer.BadParameter("must be service, off or an https:// URL", param_hint="--webhook")


def _images(given: Iterable[str]) -> "Images":
    from moe_operator.engines import own_images

    named = {}
    for text in given:
        engine, _, image = text.partition("=")
        if not engine or not image:
            raise typer.BadParameter(f"{text!r} is not ENGINE=IMAGE", param_hint="--image")
        named[engine] = image
    try:
        return own_images(named)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--image") from error


def _own_name() -> str:
    import secrets
    import socket

    return f"{socket.gethostname()}_{secrets.token_hex(4)}"


def _log(level: str) -> None:
    import logging

    names = {"debug", "info", "warning", "error"}
    if level.lower() not in names:
        raise typer.BadParameter(f"must be one of {', '.join(sorted(names))}", param_hint="--log-level")
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=level.upper(), stream=sys.stderr
    )
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
