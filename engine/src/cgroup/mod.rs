//! The cgroup module.
