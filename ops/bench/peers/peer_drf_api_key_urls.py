"""The two routes of the djangorestframework-api-key peer; Django imports this module once it is configured."""

import os

from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_api_key.permissions import HasAPIKey


class Protected(APIView):
    """The protected route."""

    permission_classes = (HasAPIKey,)

    def get(self, _request: Request) -> Response:
        """Reached with a valid key only."""
        return Response({"ok": True})


def pid(_request: HttpRequest) -> HttpResponse:
    """Name the worker."""
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("", Protected.as_view()), path("pid", pid)]
