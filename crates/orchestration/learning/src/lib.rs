//! The Learning Plane: telemetry in, forecasts and recommendations out.
