/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What crosses from the kernel: the single definition of every event, key and
 * counter.
 *
 * The build reads this file too and writes the Rust structs and their decoders
 * from it, together with a C file of static assertions that the compiler of
 * the programs checks; neither side can drift. For that the grammar is small:
 * enums, structs of fixed-width integers, arrays and structs defined above,
 * one member a line, no implicit padding; the comment on a line becomes its
 * documentation.
 */
#ifndef BULKHEAD_EVENTS_H
#define BULKHEAD_EVENTS_H

#define COMM_LEN 16
#define PARENTS_MAX 8
#define FILENAME_LEN 512
#define CWD_LEN 1024
#define ARGS_LEN 4096
#define DNS_LEN 512
#define CGROUP_NAME_LEN 128
#define HIST_SLOTS 32

enum event_kind {
	EVENT_EXEC = 1, /* a process replaced its image */
	EVENT_EXEC_FAILED = 2, /* execve or execveat returned an error */
	EVENT_EXIT = 3, /* a process that had executed something ended */
	EVENT_TCP_CONNECT = 4, /* an outgoing connection was established */
	EVENT_TCP_CONNECT_FAILED = 5, /* an outgoing connection was not */
	EVENT_TCP_ACCEPT = 6, /* an incoming connection was established */
	EVENT_TCP_CLOSE = 7, /* an established connection ended */
	EVENT_TCP_LISTEN = 8, /* a socket listens */
	EVENT_DNS = 9, /* a DNS message from or to port 53 */
	EVENT_OOM = 10, /* the kernel chose a victim */
	EVENT_CGROUP_MADE = 11, /* a child of the watched cgroup was made */
	EVENT_CGROUP_REMOVED = 12, /* a child of the watched cgroup was removed */
	EVENT_FLOW = 13, /* not told: there is a new entry in `flows` to be fetched; a `wake_event` */
	EVENT_DNS_SEGMENT = 14, /* not told: TCP from or to port 53, which the reader makes DNS messages of */
};

/* Why something is missing from the stream; the index into the `lost` map. The
 * first slots are the event kinds above, for which the ring had no room. */
enum lost_cause {
	LOST_SCRATCH = 16, /* the CPU's assembly buffer was in use */
	LOST_TASKS_FULL = 17, /* too many live processes: an exit will be missing */
	LOST_FLOWS_FULL = 18, /* too many UDP flows between two sweeps; counts datagrams */
	LOST_COUNTERS_FULL = 19, /* too many cgroups: one has no counters */
	LOST_QUEUE_FULL = 20, /* too many waiting tasks or requests for a histogram */
	LOST_SOCKETS = 21, /* the kernel had no memory for what we know of a socket */
	LOST_CAUSES = 24, /* size of the map */
};

/* Inode numbers of the namespaces a task is in, as in `/proc/PID/ns`. */
struct namespaces {
	__u32 mnt; /* mount namespace */
	__u32 pid; /* PID namespace the task lives in */
	__u32 net; /* network namespace */
	__u32 uts; /* host name namespace */
	__u32 ipc; /* System V IPC namespace */
	__u32 user; /* user namespace of the credentials */
	__u32 cgroup; /* cgroup namespace */
	__u32 time; /* time namespace; 0 where the kernel has none */
};

/* Who did it. All zero when a socket's owner was never seen. */
struct task {
	__u64 start_ns; /* boot-time clock at which the process started; with `pid`, unique */
	__u32 pid; /* process id on the host */
	__u32 tid; /* thread id on the host */
	__u32 ns_pid; /* process id in the innermost PID namespace */
	__u32 ppid; /* parent's process id on the host */
	__u32 uid; /* real user id on the host */
	__u32 gid; /* real group id on the host */
	struct namespaces ns; /* where it is */
	__u8 comm[COMM_LEN]; /* the task's name, NUL-terminated, any bytes */
};

/* Every event begins with this. */
struct header {
	__u32 kind; /* an `event_kind` */
	__u32 unused; /* keeps the next field aligned */
	__u64 time_ns; /* boot-time clock */
	__u64 cgroup_id; /* the container's cgroup: the child of the watched parent */
	__u64 leaf_cgroup_id; /* the cgroup the task or socket is really in */
	struct task task; /* who */
};

/* One link of the chain of parents. */
struct parent {
	__u32 pid; /* process id on the host */
	__u8 comm[COMM_LEN]; /* its name */
};

/* Followed by `filename_len`, `cwd_len` and `args_len` bytes. */
struct exec_event {
	struct header head; /* common part */
	__s32 error; /* negative errno of a failed exec, else 0 */
	__u32 filename_len; /* bytes of the path as it was given */
	__u32 cwd_len; /* bytes of path components, each NUL-terminated, last one first */
	__u32 args_len; /* bytes of NUL-terminated arguments */
	__u32 args_size; /* bytes the arguments have in the process; 0 when not known */
	__u32 cut; /* 1: filename, 2: cwd, 4: arguments are longer than what is here */
	__u32 parents_len; /* used entries of `parents` */
	__u32 unused; /* keeps the size a multiple of eight */
	struct parent parents[PARENTS_MAX]; /* nearest first */
};

/* End of a process. */
struct exit_event {
	struct header head; /* common part */
	__u64 duration_ns; /* since its last exec */
	__u32 status; /* as wait(2) reports it */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* The two ends of a connection or flow. */
struct endpoints {
	__u8 local[16]; /* local address; the first four bytes for IPv4 */
	__u8 remote[16]; /* remote address */
	__u16 local_port; /* host byte order */
	__u16 remote_port; /* host byte order */
	__u16 family; /* AF_INET or AF_INET6 */
	__u16 unused; /* keeps the size a multiple of eight */
};

/* A change in the life of a TCP socket. */
struct tcp_event {
	struct header head; /* common part; the task is the socket's owner */
	struct endpoints ends; /* addresses and ports */
	__u64 duration_ns; /* connect: handshake; close: since established */
	__u64 tx_bytes; /* payload sent, without retransmissions */
	__u64 rx_bytes; /* payload received in order */
	__s32 error; /* errno of a failed or broken connection, else 0 */
	__u32 srtt_us; /* smoothed round-trip time */
	__u32 retransmits; /* segments sent again */
	__u32 segs_out; /* segments sent */
	__u32 segs_in; /* segments received */
	__u32 netns; /* network namespace of the socket */
	__u32 older; /* 1: a listening socket that was there before the tracer */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* A DNS message; followed by `len` bytes of it. */
struct dns_event {
	struct header head; /* common part; the task is the socket's owner */
	struct endpoints ends; /* addresses and ports */
	__u32 outgoing; /* 1: sent, 0: received */
	__u32 len; /* bytes of the message that follow */
	__u32 wire_len; /* bytes the message has */
	__u32 netns; /* network namespace of the socket; 0 when not known */
	__u32 stream; /* 1: over TCP */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* Some bytes of a TCP stream from or to port 53, at most DNS_LEN; followed by `len` bytes. A long packet is
 * several of these. */
struct dns_segment {
	struct header head; /* common part; the task is the socket's owner */
	struct endpoints ends; /* addresses and ports */
	__u32 outgoing; /* 1: sent, 0: received */
	__u32 len; /* bytes that follow */
	__u32 seq; /* sequence number of the first of them */
	__u32 flags; /* of the TCP header: 1 FIN, 2 SYN, 4 RST; on the last part of a packet */
	__u32 netns; /* network namespace of the socket; 0 when not known */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* The OOM killer's choice. Sizes in pages. */
struct oom_event {
	struct header head; /* common part; the task is the victim */
	__u64 limit_pages; /* lowest memory limit above the victim; all ones: none */
	__u64 total_vm; /* address space */
	__u64 anon_pages; /* resident anonymous memory */
	__u64 file_pages; /* resident file pages */
	__u64 shmem_pages; /* resident shared memory */
	__u64 swap_pages; /* swapped out */
	__u64 pgtable_bytes; /* page tables, in bytes */
	__s32 score_adj; /* oom_score_adj */
	__u32 detailed; /* 0: this kernel tells the pid only */
};

/* A cgroup comes or goes: what ties its id to its name before anything runs in it. */
struct cgroup_event {
	struct header head; /* common part; the task is who made or removed it */
	__u8 name[CGROUP_NAME_LEN]; /* the directory's name, NUL-terminated */
};

/* Wakes the reader; its losses lose nothing. */
struct wake_event {
	__u32 kind; /* EVENT_FLOW */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* UDP traffic between two ends, per cgroup. The reader moves the programs on to the
 * next generation and takes the last one out when nobody can be writing it any more. */
struct flow_key {
	__u64 cgroup_id; /* the container's cgroup */
	struct endpoints ends; /* addresses and ports */
	__u32 generation; /* 0 and 1 in turns */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* What a flow has carried so far. */
struct flow {
	struct task task; /* creator of the socket */
	__u64 leaf_cgroup_id; /* the socket's cgroup */
	__u64 first_ns; /* boot-time clock of the first datagram */
	__u64 last_ns; /* boot-time clock of the latest */
	__u64 tx_packets; /* datagrams sent */
	__u64 tx_bytes; /* their payload */
	__u64 rx_packets; /* datagrams received */
	__u64 rx_bytes; /* their payload */
	__u32 netns; /* network namespace of the socket; 0 when not known */
	__u32 unused; /* keeps the size a multiple of eight */
};

/* Counters of one cgroup; they only grow. */
struct counters {
	__u64 execs; /* successful execs */
	__u64 exec_failures; /* execs that returned an error */
	__u64 forks; /* processes created */
	__u64 threads; /* threads created */
	__u64 exits; /* processes ended */
	__u64 oom_kills; /* OOM victims */
	__u64 tcp_connects; /* outgoing connections established */
	__u64 tcp_connect_failures; /* outgoing connections not established */
	__u64 tcp_accepts; /* incoming connections established */
	__u64 tcp_closes; /* established connections that ended */
	__u64 tcp_retransmits; /* segments sent again */
	__u64 rx_packets; /* IP packets received (after GRO) */
	__u64 rx_bytes; /* their bytes, IP headers included */
	__u64 tx_packets; /* IP packets sent (before GSO) */
	__u64 tx_bytes; /* their bytes, IP headers included */
	__u64 dns_queries; /* datagrams sent to port 53; TCP is the reader's to count */
	__u64 dns_answers; /* datagrams received from port 53; TCP is the reader's to count */
	__u64 io_reads; /* block reads completed */
	__u64 io_read_bytes; /* their bytes */
	__u64 io_writes; /* other block requests completed */
	__u64 io_write_bytes; /* their bytes */
};

/* DNS messages over TCP of one cgroup. */
struct stream_counters {
	__u64 queries; /* sent to port 53 */
	__u64 answers; /* received from port 53 */
};

/* A histogram of durations: slot i counts those below 2^i microseconds that slot i-1 does not. */
struct histogram {
	__u64 sum_ns; /* sum of all durations */
	__u64 slots[HIST_SLOTS]; /* counts */
};

#endif
