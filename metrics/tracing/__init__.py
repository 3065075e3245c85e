"""Spans on their way to an OpenTelemetry collector: which requests are due, and a thread that sends.

What the spans are is `metrics.core.traces`. OpenTelemetry is needed only here, and only where `[traces]` says where to.
"""
