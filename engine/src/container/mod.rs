//! The life of a container: its record, its monitor, its log, and the verbs that move it.
