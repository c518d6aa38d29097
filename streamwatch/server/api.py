"""Puts the HTTP application together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from streamwatch import __version__
from streamwatch.server import problems, routes_alerts, routes_service, routes_streams, routes_whip, static
from streamwatch.server.deps import Services, check_content_type
from streamwatch.server.guard import Application, Guard, Receive, Send, caller_of
from streamwatch.server.tokens import Scope
from streamwatch.server.ws import WebSocketEndpoint, refuse

DESCRIPTION = (
    "Real-time deepfake monitoring of live video. A score is the probability that the face is fake, 0 to 1. "
    "The protocol in words: docs/protocol.md."
)


def create_app(services: Services, assets: dict[str, static.Asset] | None = None) -> Application:
    """The ASGI application, guard included. `assets` None: the dashboard that comes with the package."""
    app = api(services, assets)

    async def allowed(scope: Any) -> int:
        principal = await services.access.principal(caller_of(scope))
        return 401 if principal is None else 0 if Scope.READ in principal.scopes else 403

    socket = WebSocketEndpoint(services.hub, allowed)

    async def dispatch(scope: Any, receive: Receive, send: Send) -> None:
        """Websockets go past the framework: see ws.py."""
        if scope["type"] != "websocket":
            await app(scope, receive, send)
        elif scope["path"] != "/api/v1/ws":
            await refuse(send, 404, "there is no websocket here")
        else:
            await socket(scope, receive, send)

    return Guard(dispatch, services.settings)


def api(services: Services, assets: dict[str, static.Asset] | None = None) -> FastAPI:
    app = FastAPI(
        title="StreamWatch",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    app.state.services = services
    problems.install(app)
    v1 = APIRouter(prefix="/api/v1", dependencies=[Depends(check_content_type)])
    for router in (routes_streams.router, routes_alerts.router, routes_service.router, routes_whip.router):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(routes_service.root)
    app.include_router(static.router(static.load() if assets is None else assets))
    return app
