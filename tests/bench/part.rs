//! The parts of a bench, so that one of them can be measured alone.
//! Measures nothing.

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Rates, latencies and processor time beside nginx and a direct connection
    Rows,
    /// Latency against load
    Ladder,
    /// What limits cost that are on and not reached
    Limits,
    /// Cost and memory against open connections
    Open,
    /// Cost against rules
    Rules,
    /// Cost against running processes
    Processes,
    /// Traffic that is none of the service's, with and without the daemons
    Traffic,
    /// What runs while nothing happens: a minute
    Idle,
}

impl Part {
    pub(crate) const ALL: [Self; 8] = [
        Self::Rows,
        Self::Ladder,
        Self::Limits,
        Self::Open,
        Self::Rules,
        Self::Processes,
        Self::Traffic,
        Self::Idle,
    ];

    /// As it is named on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Ladder => "ladder",
            Self::Limits => "limits",
            Self::Open => "open",
            Self::Rules => "rules",
            Self::Processes => "processes",
            Self::Traffic => "traffic",
            Self::Idle => "idle",
        }
    }
}
