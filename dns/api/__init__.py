"""Where traffic is sent, each change of that, the hand on it, the terms it follows, its rehearsals, and the last resort."""

from dns.api.breakglass import BreakGlassKeyView, BreakGlassViewSet
from dns.api.changes import WeightChangeViewSet
from dns.api.drills import DrillViewSet
from dns.api.hand import FreezeViewSet, PinViewSet
from dns.api.routing import RoutingViewSet
from dns.api.terms import SteeringTermsViewSet

__all__ = [
    "BreakGlassKeyView",
    "BreakGlassViewSet",
    "DrillViewSet",
    "FreezeViewSet",
    "PinViewSet",
    "RoutingViewSet",
    "SteeringTermsViewSet",
    "WeightChangeViewSet",
]
