//! The orchestrator: sites, jobs, placement, migrations, events.
