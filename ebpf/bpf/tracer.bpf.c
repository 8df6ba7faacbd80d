// SPDX-License-Identifier: GPL-2.0
/*
 * What the containers under one cgroup execute, whom they talk to, and how
 * they end.
 *
 * Every program starts with the same question, "is this cgroup below ours?",
 * and leaves at once when it is not, so that the rest of the host pays a few
 * loads. A container is the child of the watched cgroup; what it makes below
 * itself belongs to it.
 *
 * Softirqs have no `current`: whatever happens to a socket is attributed
 * through the socket's own cgroup, and to the process kept in its storage.
 *
 * Nothing is dropped silently. Whoever cannot store or send something adds one
 * to `lost` under the cause.
 */
#include "kernel.h"
#include "events.h"

char LICENSE[] SEC("license") = "GPL";

/* Set by the loader. */
const volatile __u64 parent_id = 1;
const volatile __u32 parent_level = 0;

#define CUT_FILENAME 1
#define CUT_CWD 2
#define CUT_ARGS 4

#define ARGV_MAX 128 /* pointers followed after a failed exec */
#define CWD_DEPTH 48

/* A failed relocation poisons the whole program; this keeps the compiler from
 * proving a bound away that the verifier then cannot see. */
#define opaque(x) asm volatile("" : "+r"(x))

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOST_CAUSES);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct counters);
} cgroup_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct histogram);
} run_queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct histogram);
} block_io SEC(".maps");

/* DNS messages over TCP. No program writes it: only the reader, who puts segments together, sees messages. It
 * is here to be pinned and forgotten with the rest. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct stream_counters);
} dns_streams SEC(".maps");

/* A live process that has executed something; what its exit will need. */
struct process {
	__u64 exec_ns;
	__u64 cgroup_id;
	__u64 leaf_cgroup_id;
	struct task task;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct process);
} processes SEC(".maps");

#define SOCKET_CONNECTING 1
#define SOCKET_ESTABLISHED 2
#define SOCKET_LISTENING 4

struct socket_info {
	struct task task;
	struct endpoints ends;
	__u64 start_ns;
	__u32 flags;
	__u32 unused;
};

/* BPF_F_CLONE: an accepted socket starts with what is known of its listener. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket_info);
} sockets SEC(".maps");

/* What user space tells while programs run, hence a map and not constants. */
#define SWITCH_CONNECT_EXIT 0 /* sys_exit_connect is attached and reports what sk_err does not */
#define SWITCH_EXIT 1 /* somebody takes out of `processes` what an exec puts in */
#define SWITCH_GENERATION 2 /* of new entries in `flows` */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u32);
} switches SEC(".maps");

/* Threads inside connect(2) whose socket has reached SYN_SENT. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} connecting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Since when something waits, and for whom. */
struct waiting {
	__u64 since_ns;
	__u64 cgroup_id;
};

/* Kept with the task: found without a table, and gone when it is. Made where a task comes in, because an
 * allocation under the run queue's lock could wake a task; who has none is nobody we count. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct waiting);
} runnable SEC(".maps");

/* A request of the block layer. Its place in memory is used again, also after a merge that no program sees: only
 * with the time at which it was made is it the same one. */
struct request_of {
	__u64 made_ns;
	__u64 cgroup_id; /* 0: of no container */
	__u64 since_ns; /* at the device; 0: queued */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct request_of);
} requests SEC(".maps");

/* An exec event is too large for the stack and its size is not known before it
 * is written; it is put together here and copied into the ring. */
#define DATA_MASK 0x1fff
struct scratch {
	__u64 busy;
	struct exec_event event;
	char data[16384];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static const struct counters no_counters = {};
static const struct histogram no_histogram = {};

static __always_inline __u32 switched(__u32 which)
{
	__u32 *value = bpf_map_lookup_elem(&switches, &which);

	return value ? *value : 0;
}

static __always_inline void count_lost(__u32 cause)
{
	__u64 *n = bpf_map_lookup_elem(&lost, &cause);

	if (n)
		__sync_fetch_and_add(n, 1);
}

static __always_inline void send(void *event, __u64 size, __u32 kind)
{
	if (bpf_ringbuf_output(&events, event, size, 0))
		count_lost(kind);
}

/* ---- whose is it -------------------------------------------------------- */

struct owner {
	__u64 container;
	__u64 leaf;
};

static __always_inline __u64 ancestor_id(struct cgroup *cgrp, __u32 level)
{
	void *slot = (void *)cgrp + bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(void *);
	struct cgroup *ancestor = NULL;

	bpf_probe_read_kernel(&ancestor, sizeof(ancestor), slot);
	return BPF_CORE_READ(ancestor, kn, id);
}

static __always_inline bool owner_of_cgroup(struct cgroup *cgrp, struct owner *owner)
{
	__u32 level = BPF_CORE_READ(cgrp, level);

	if (level <= parent_level || ancestor_id(cgrp, parent_level) != parent_id)
		return false;
	owner->leaf = BPF_CORE_READ(cgrp, kn, id);
	owner->container = level == parent_level + 1 ? owner->leaf : ancestor_id(cgrp, parent_level + 1);
	return true;
}

/* Ids are unique in one hierarchy only; a v1 cgroup may have the number of ours. */
static __always_inline bool in_v2(struct cgroup *cgrp)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(cgrp, root) == BPF_CORE_READ(task, cgroups, dfl_cgrp, root);
}

static __always_inline bool owner_of_task(struct task_struct *task, struct owner *owner)
{
	return owner_of_cgroup(BPF_CORE_READ(task, cgroups, dfl_cgrp), owner);
}

/* The same where the verifier knows the pointer: plain loads, and no helper's call for each. */
static __always_inline bool owner_of_known(struct task_struct *task, struct owner *owner)
{
	struct cgroup *cgrp = task->cgroups->dfl_cgrp;
	__u32 level = cgrp->level;

	if (level <= parent_level)
		return false;
	if (level > parent_level + 1)
		return owner_of_cgroup(cgrp, owner);
	if (cgrp->self.parent->cgroup->kn->id != parent_id)
		return false;
	owner->leaf = owner->container = cgrp->kn->id;
	return true;
}

static __always_inline bool owner_of_sock(struct sock *sk, struct owner *owner)
{
	struct cgroup *cgrp = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);

	return cgrp && owner_of_cgroup(cgrp, owner);
}

/* A packet may outlive its container; only what a process does makes an entry,
 * so that a forgotten cgroup stays forgotten. */
static __always_inline struct counters *counters_of(__u64 id, bool create)
{
	struct counters *c = bpf_map_lookup_elem(&cgroup_counters, &id);

	if (c || !create)
		return c;
	if (bpf_map_update_elem(&cgroup_counters, &id, &no_counters, BPF_NOEXIST)) {
		c = bpf_map_lookup_elem(&cgroup_counters, &id);
		if (!c)
			count_lost(LOST_COUNTERS_FULL);
		return c;
	}
	return bpf_map_lookup_elem(&cgroup_counters, &id);
}

#define COUNT(id, create, field, by)                                    \
	do {                                                            \
		struct counters *c_ = counters_of(id, create);          \
		if (c_)                                                 \
			__sync_fetch_and_add(&c_->field, (__u64)(by));  \
	} while (0)

static __always_inline void fill_task(struct task_struct *task, struct task *out)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct nsproxy *ns = BPF_CORE_READ(task, nsproxy);
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	const struct cred *cred = BPF_CORE_READ(task, cred);

	out->start_ns = BPF_CORE_READ(leader, start_boottime);
	out->pid = BPF_CORE_READ(task, tgid);
	out->tid = BPF_CORE_READ(task, pid);
	out->ppid = BPF_CORE_READ(task, real_parent, tgid);
	out->uid = BPF_CORE_READ(cred, uid.val);
	out->gid = BPF_CORE_READ(cred, gid.val);
	out->ns.user = BPF_CORE_READ(cred, user_ns, ns.inum);
	if (ns) {
		out->ns.mnt = BPF_CORE_READ(ns, mnt_ns, ns.inum);
		out->ns.net = BPF_CORE_READ(ns, net_ns, ns.inum);
		out->ns.uts = BPF_CORE_READ(ns, uts_ns, ns.inum);
		out->ns.ipc = BPF_CORE_READ(ns, ipc_ns, ns.inum);
		out->ns.cgroup = BPF_CORE_READ(ns, cgroup_ns, ns.inum);
		if (bpf_core_field_exists(ns->time_ns))
			out->ns.time = BPF_CORE_READ(ns, time_ns, ns.inum);
	}
	if (pid) {
		struct upid *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				    BPF_CORE_READ(pid, level) * bpf_core_type_size(struct upid);

		out->ns_pid = BPF_CORE_READ(upid, nr);
		out->ns.pid = BPF_CORE_READ(upid, ns, ns.inum);
	}
	BPF_CORE_READ_STR_INTO(&out->comm, task, comm);
}

static __always_inline void fill_header(struct header *head, __u32 kind, const struct owner *owner)
{
	head->kind = kind;
	head->unused = 0;
	head->time_ns = bpf_ktime_get_boot_ns();
	head->cgroup_id = owner->container;
	head->leaf_cgroup_id = owner->leaf;
}

/* ---- cgroups ------------------------------------------------------------ */

static __always_inline int on_cgroup(struct cgroup *cgrp, __u32 kind)
{
	struct cgroup_event e = {};
	struct owner owner;

	if (!in_v2(cgrp) || !owner_of_cgroup(cgrp, &owner) || owner.leaf != owner.container)
		return 0;
	fill_header(&e.head, kind, &owner);
	fill_task((void *)bpf_get_current_task(), &e.head.task);
	bpf_probe_read_kernel_str(e.name, sizeof(e.name), BPF_CORE_READ(cgrp, kn, name));
	send(&e, sizeof(e), kind);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_mkdir, struct cgroup *cgrp)
{
	return on_cgroup(cgrp, EVENT_CGROUP_MADE);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(on_cgroup_rmdir, struct cgroup *cgrp)
{
	return on_cgroup(cgrp, EVENT_CGROUP_REMOVED);
}

/* ---- processes ---------------------------------------------------------- */

/* The next position in the data. Masked to a range that the verifier sees again
 * after every step of a loop, or it would follow each step on its own; the ends
 * that the loops keep are far below. */
static __always_inline __u32 advance(__u32 at, __u32 by)
{
	at += by;
	opaque(at);
	return at & 0x3fff;
}

/* The path of the working directory, last component first, as the process
 * itself would see it. The kernel's own d_path is not for tracepoints. */
struct cwd_walk {
	char *data;
	struct dentry *dentry;
	struct vfsmount *vfs;
	struct dentry *root;
	struct vfsmount *root_vfs;
	__u32 at;
	__u32 end;
	bool done;
};

/* One step up. bpf_loop has it verified once; an ordinary loop over names of
 * unknown length takes the verifier past its limit. */
static long cwd_step(__u32 i, struct cwd_walk *w)
{
	struct dentry *dentry = w->dentry, *up;
	struct vfsmount *vfs = w->vfs;
	struct mount *mount = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	__u32 pos;
	long n;

	if (dentry == w->root && vfs == w->root_vfs)
		goto done;
	if (dentry == BPF_CORE_READ(vfs, mnt_root)) {
		struct mount *parent = BPF_CORE_READ(mount, mnt_parent);

		if (!parent || parent == mount)
			goto done;
		w->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		w->vfs = (void *)parent + bpf_core_field_offset(struct mount, mnt);
		return 0;
	}
	up = BPF_CORE_READ(dentry, d_parent);
	if (!up || up == dentry)
		goto done;
	pos = w->at;
	if (pos >= w->end)
		return 1;
	pos &= DATA_MASK;
	opaque(pos);
	pos &= DATA_MASK;
	n = bpf_probe_read_kernel_str(&w->data[pos], 256, BPF_CORE_READ(dentry, d_name.name));
	if (n <= 0)
		return 1;
	w->at = advance(w->at, n);
	w->dentry = up;
	return 0;
done:
	w->done = true;
	return 1;
}

/* Not static, like the next two: the verifier then looks at the function once
 * and by itself, and not again for all that its caller may have done before. */
__noinline int read_cwd(struct scratch *s, __u32 at)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	struct cwd_walk walk = {
		.dentry = BPF_CORE_READ(fs, pwd.dentry),
		.vfs = BPF_CORE_READ(fs, pwd.mnt),
		.root = BPF_CORE_READ(fs, root.dentry),
		.root_vfs = BPF_CORE_READ(fs, root.mnt),
		.at = at,
		.end = at + CWD_LEN - 256,
	};

	if (!s)
		return 0;
	walk.data = s->data;
	bpf_loop(CWD_DEPTH, cwd_step, &walk, 0);
	if (!walk.done)
		s->event.cut |= CUT_CWD;
	return walk.at - at;
}

__noinline int read_parents(struct scratch *s)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	__u32 n = 0;

	if (!s)
		return 0;
	for (int i = 0; i < PARENTS_MAX; i++) {
		struct parent *p = &s->event.parents[i];

		p->pid = BPF_CORE_READ(parent, tgid);
		BPF_CORE_READ_STR_INTO(&p->comm, parent, comm);
		n = i + 1;
		if (p->pid <= 1)
			break;
		parent = BPF_CORE_READ(parent, real_parent);
	}
	s->event.parents_len = n;
	return 0;
}

static __always_inline struct scratch *scratch_get(__u32 kind)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return NULL;
	if (s->busy) {
		count_lost(LOST_SCRATCH);
		return NULL;
	}
	s->busy = 1;
	return s;
}

static __always_inline void scratch_send(struct scratch *s, __u32 data_len, __u32 kind)
{
	opaque(data_len);
	data_len &= 0x3fff;
	send(&s->event, sizeof(s->event) + data_len, kind);
	s->busy = 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct owner owner;
	struct scratch *s;
	struct exec_event *e;
	unsigned long arg_start, arg_end, args;
	__u32 at = 0, n;
	long got;

	if (!owner_of_task(task, &owner))
		return 0;
	COUNT(owner.container, true, execs, 1);
	s = scratch_get(EVENT_EXEC);
	if (!s)
		return 0;
	e = &s->event;
	fill_header(&e->head, EVENT_EXEC, &owner);
	fill_task(task, &e->head.task);
	e->error = 0;
	e->cut = 0;
	e->unused = 0;

	got = bpf_probe_read_kernel_str(s->data, FILENAME_LEN, BPF_CORE_READ(bprm, filename));
	e->filename_len = 0;
	if (got > 0) {
		at = (__u32)got;
		e->filename_len = at;
		if (got == FILENAME_LEN)
			e->cut |= CUT_FILENAME;
	}

	e->cwd_len = read_cwd(s, at) & DATA_MASK;
	at += e->cwd_len;

	arg_start = BPF_CORE_READ(task, mm, arg_start);
	arg_end = BPF_CORE_READ(task, mm, arg_end);
	args = arg_end - arg_start;
	e->args_size = args;
	n = args;
	if (args > ARGS_LEN) {
		n = ARGS_LEN;
		e->cut |= CUT_ARGS;
	}
	e->args_len = 0;
	at &= DATA_MASK;
	opaque(at);
	at &= DATA_MASK;
	opaque(n);
	if (n > 0 && n <= ARGS_LEN) {
		if (bpf_probe_read_user(&s->data[at], n, (void *)arg_start) == 0)
			e->args_len = n;
		else
			e->cut |= CUT_ARGS;
	}
	read_parents(s);

	if (switched(SWITCH_EXIT)) {
		struct process p = {
			.exec_ns = e->head.time_ns,
			.cgroup_id = owner.container,
			.leaf_cgroup_id = owner.leaf,
			.task = e->head.task,
		};

		if (bpf_map_update_elem(&processes, &p.task.pid, &p, BPF_ANY))
			count_lost(LOST_TASKS_FULL);
	}
	scratch_send(s, at + e->args_len, EVENT_EXEC);
	return 0;
}

struct argv_walk {
	char *data;
	const char *const *argv;
	__u32 at;
	__u32 end;
	bool done;
};

static long argv_step(__u32 i, struct argv_walk *w)
{
	const char *arg = NULL;
	__u32 pos = w->at;
	long n;

	if (pos >= w->end || bpf_probe_read_user(&arg, sizeof(arg), &w->argv[i]))
		return 1;
	if (!arg) {
		w->done = true;
		return 1;
	}
	pos &= DATA_MASK;
	opaque(pos);
	pos &= DATA_MASK;
	n = bpf_probe_read_user_str(&w->data[pos], ARGS_LEN, arg);
	if (n <= 0)
		return 1;
	w->at = advance(w->at, n);
	return 0;
}

/* At the end of a failed exec the arguments are still where the caller put them. */
__noinline int read_argv(struct scratch *s, __u32 at, __u64 argv)
{
	struct argv_walk walk = { .argv = (void *)argv, .at = at, .end = at + ARGS_LEN };
	__u32 args;

	if (!s)
		return 0;
	walk.data = s->data;
	bpf_loop(ARGV_MAX, argv_step, &walk, 0);
	args = walk.at - at;
	if (!walk.done || args > ARGS_LEN)
		s->event.cut |= CUT_ARGS;
	return args > ARGS_LEN ? ARGS_LEN : args;
}

/* Shared by execve(filename, argv, envp) and execveat(dirfd, filename, argv, …). */
static __always_inline int exec_failed(long error, bool at_variant)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pt_regs *regs;
	const char *filename;
	const char *const *argv;
	struct owner owner;
	struct scratch *s;
	struct exec_event *e;
	__u32 at = 0, args = 0;
	long got;

	if (error >= 0 || !owner_of_task(task, &owner))
		return 0;
	COUNT(owner.container, true, exec_failures, 1);
	s = scratch_get(EVENT_EXEC_FAILED);
	if (!s)
		return 0;
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (at_variant) {
		filename = (void *)SYSCALL_ARG2(regs);
		argv = (void *)SYSCALL_ARG3(regs);
	} else {
		filename = (void *)SYSCALL_ARG1(regs);
		argv = (void *)SYSCALL_ARG2(regs);
	}
	e = &s->event;
	fill_header(&e->head, EVENT_EXEC_FAILED, &owner);
	fill_task(task, &e->head.task);
	e->error = error;
	e->cut = 0;
	e->unused = 0;
	e->args_size = 0;

	got = bpf_probe_read_user_str(s->data, FILENAME_LEN, filename);
	e->filename_len = 0;
	if (got > 0) {
		at = (__u32)got;
		e->filename_len = at;
		if (got == FILENAME_LEN)
			e->cut |= CUT_FILENAME;
	} else {
		e->cut |= CUT_FILENAME;
	}
	e->cwd_len = read_cwd(s, at) & DATA_MASK;
	at += e->cwd_len;

	args = read_argv(s, at, (__u64)argv) & DATA_MASK;
	e->args_len = args;
	read_parents(s);
	scratch_send(s, at + args, EVENT_EXEC_FAILED);
	return 0;
}

/* events/syscalls/sys_exit_*\/format */
struct syscall_exit {
	__u64 common;
	__s64 nr;
	__s64 ret;
};

SEC("tracepoint/syscalls/sys_exit_execve")
int on_execve_exit(struct syscall_exit *ctx)
{
	return exec_failed(ctx->ret, false);
}

SEC("tracepoint/syscalls/sys_exit_execveat")
int on_execveat_exit(struct syscall_exit *ctx)
{
	return exec_failed(ctx->ret, true);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct process *p;
	struct exit_event e = {};
	struct owner owner = {};
	__u32 tgid = BPF_CORE_READ(task, tgid);
	bool ours = owner_of_task(task, &owner);

	/* The last thread brings the process down. */
	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	if (ours)
		COUNT(owner.container, false, exits, 1);
	p = bpf_map_lookup_elem(&processes, &tgid);
	if (!p)
		return 0;
	owner.container = p->cgroup_id;
	owner.leaf = p->leaf_cgroup_id;
	fill_header(&e.head, EVENT_EXIT, &owner);
	e.duration_ns = e.head.time_ns - p->exec_ns;
	/* Two last threads may both see no one alive; one of them deletes. */
	if (bpf_map_delete_elem(&processes, &tgid))
		return 0;
	fill_task(task, &e.head.task);
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		e.status = BPF_CORE_READ(task, signal, group_exit_code);
	else
		e.status = BPF_CORE_READ(task, group_leader, exit_code);
	send(&e, sizeof(e), EVENT_EXIT);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct owner owner;

	if (!owner_of_task(child, &owner))
		return 0;
	if (BPF_CORE_READ(child, pid) == BPF_CORE_READ(child, tgid))
		COUNT(owner.container, true, forks, 1);
	else
		COUNT(owner.container, true, threads, 1);
	return 0;
}

/* ---- out of memory ------------------------------------------------------ */

/* The lowest limit on the way up: the one that can have been hit. */
static __always_inline __u64 memory_limit(struct task_struct *task)
{
	__u64 index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	void *slot = (void *)set + bpf_core_field_offset(struct css_set, subsys) + index * sizeof(void *);
	struct mem_cgroup *memcg = NULL;
	struct page_counter *counter;
	__u64 limit = ~0ULL;

	bpf_probe_read_kernel(&memcg, sizeof(memcg), slot);
	if (!memcg)
		return limit;
	counter = __builtin_preserve_access_index(&memcg->memory);
	for (int i = 0; i < 16 && counter; i++) {
		__u64 max = BPF_CORE_READ(counter, max);

		/* PAGE_COUNTER_MAX is "no limit" */
		if (max < limit && max < (~0ULL >> 1) / 4096)
			limit = max;
		counter = BPF_CORE_READ(counter, parent);
	}
	return limit;
}

static __always_inline __u64 rss(struct mm_struct *mm, int which)
{
	__s64 n = 0;
	void *slot = mm;

	/* By hand: with an index that is no constant the compiler would step by the
	 * size that kernel.h gives the counter. */
	if (bpf_core_field_exists(((struct mm_struct___before_6_2 *)0)->rss_stat.count))
		slot += bpf_core_field_offset(((struct mm_struct___before_6_2 *)0)->rss_stat.count) +
			which * sizeof(__s64);
	else
		slot += bpf_core_field_offset(((struct mm_struct *)0)->rss_stat) +
			which * bpf_core_type_size(struct percpu_counter) +
			bpf_core_field_offset(((struct percpu_counter *)0)->count);
	bpf_probe_read_kernel(&n, sizeof(n), slot);
	return n < 0 ? 0 : n;
}

SEC("tp_btf/mark_victim")
int on_oom(__u64 *ctx)
{
	struct oom_event e = {};
	struct owner owner = {};

	if (bpf_core_field_exists(((struct trace_event_raw_mark_victim *)0)->total_vm)) {
		struct task_struct *task = (void *)ctx[0];
		struct mm_struct *mm;

		if (!owner_of_task(task, &owner))
			return 0;
		fill_task(task, &e.head.task);
		mm = BPF_CORE_READ(task, mm);
		e.detailed = 1;
		e.limit_pages = memory_limit(task);
		e.total_vm = BPF_CORE_READ(mm, total_vm);
		e.file_pages = rss(mm, 0);
		e.anon_pages = rss(mm, 1);
		e.swap_pages = rss(mm, 2);
		e.shmem_pages = rss(mm, 3);
		e.pgtable_bytes = BPF_CORE_READ(mm, pgtables_bytes.counter);
		e.score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
	} else {
		__u32 pid = ctx[0];
		struct process *p = bpf_map_lookup_elem(&processes, &pid);

		if (!p)
			return 0;
		owner.container = p->cgroup_id;
		owner.leaf = p->leaf_cgroup_id;
		e.head.task = p->task;
		e.limit_pages = ~0ULL;
	}
	fill_header(&e.head, EVENT_OOM, &owner);
	COUNT(owner.container, true, oom_kills, 1);
	send(&e, sizeof(e), EVENT_OOM);
	return 0;
}

/* ---- TCP ---------------------------------------------------------------- */

static __always_inline void read_endpoints(struct sock *sk, struct endpoints *ends)
{
	__u16 port;

	ends->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (ends->family == AF_INET) {
		__be32 local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		__be32 remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);

		__builtin_memcpy(ends->local, &local, 4);
		__builtin_memcpy(ends->remote, &remote, 4);
	} else {
		BPF_CORE_READ_INTO(&ends->local, sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr8);
		BPF_CORE_READ_INTO(&ends->remote, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	}
	/* On the way to CLOSE the ports are already gone; keep what was. */
	port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	if (port)
		ends->local_port = port;
	port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (port)
		ends->remote_port = port;
}

static __always_inline void send_tcp(struct sock *sk, struct socket_info *info, const struct owner *owner,
				     __u32 kind, __s32 error, bool older)
{
	struct tcp_sock *tp = (void *)sk;
	struct tcp_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	__u64 rx;

	if (!e) {
		count_lost(kind);
		return;
	}
	fill_header(&e->head, kind, owner);
	e->head.task = info->task;
	e->ends = info->ends;
	e->duration_ns = info->start_ns ? e->head.time_ns - info->start_ns : 0;
	e->tx_bytes = BPF_CORE_READ(tp, bytes_sent) - BPF_CORE_READ(tp, bytes_retrans);
	/* The peer's FIN takes a sequence number and is counted as a byte. */
	rx = BPF_CORE_READ(tp, bytes_received);
	if (rx && (BPF_CORE_READ(sk, __sk_common.skc_flags) & (1 << SOCK_DONE)))
		rx--;
	e->rx_bytes = rx;
	e->error = error;
	e->srtt_us = BPF_CORE_READ(tp, srtt_us) >> 3;
	e->retransmits = BPF_CORE_READ(tp, total_retrans);
	e->segs_out = BPF_CORE_READ(tp, segs_out);
	e->segs_in = BPF_CORE_READ(tp, segs_in);
	e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	e->older = older;
	e->unused = 0;
	bpf_ringbuf_submit(e, 0);
}

/* Once for each time a socket begins to listen, whoever sees it first. */
static __always_inline void listens(struct sock *sk, struct socket_info *info, const struct owner *owner,
				    struct task_struct *task, bool older)
{
	if (__sync_fetch_and_or(&info->flags, SOCKET_LISTENING) & SOCKET_LISTENING)
		return;
	fill_task(task, &info->task);
	__builtin_memset(&info->ends, 0, sizeof(info->ends));
	read_endpoints(sk, &info->ends);
	info->start_ns = 0;
	send_tcp(sk, info, owner, EVENT_TCP_LISTEN, 0, older);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_tcp_state, struct sock *sk, int old, int new)
{
	struct socket_info *info;
	struct owner owner;
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 one = 1;

	if (!owner_of_sock(sk, &owner) || BPF_CORE_READ(sk, sk_protocol) != 6 /* TCP */)
		return 0;
	info = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!info) {
		count_lost(LOST_SOCKETS);
		return 0;
	}

	switch (new) {
	case TCP_SYN_SENT:
		/* connect(2): current is the one who connects */
		fill_task((void *)bpf_get_current_task(), &info->task);
		__builtin_memset(&info->ends, 0, sizeof(info->ends));
		read_endpoints(sk, &info->ends);
		info->start_ns = bpf_ktime_get_boot_ns();
		info->flags = SOCKET_CONNECTING;
		if (switched(SWITCH_CONNECT_EXIT))
			bpf_map_update_elem(&connecting, &thread, &one, BPF_ANY);
		break;
	case TCP_LISTEN:
		listens(sk, info, &owner, (void *)bpf_get_current_task(), false);
		break;
	case TCP_ESTABLISHED:
		if (info->flags & SOCKET_ESTABLISHED)
			break;
		read_endpoints(sk, &info->ends);
		if (info->flags & SOCKET_CONNECTING) {
			COUNT(owner.container, true, tcp_connects, 1);
			send_tcp(sk, info, &owner, EVENT_TCP_CONNECT, 0, false);
		} else {
			COUNT(owner.container, false, tcp_accepts, 1);
			send_tcp(sk, info, &owner, EVENT_TCP_ACCEPT, 0, false);
		}
		info->start_ns = bpf_ktime_get_boot_ns();
		info->flags = SOCKET_ESTABLISHED;
		break;
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		/* Only close(2), shutdown(2) and the end of a process come here: the
		 * process that used an accepted socket shows itself at last. */
		fill_task((void *)bpf_get_current_task(), &info->task);
		break;
	case TCP_CLOSE: {
		__s32 error = BPF_CORE_READ(sk, sk_err);

		if (info->flags & SOCKET_ESTABLISHED) {
			COUNT(owner.container, false, tcp_closes, 1);
			send_tcp(sk, info, &owner, EVENT_TCP_CLOSE, error, false);
		} else if (info->flags & SOCKET_CONNECTING) {
			/* Without an error in the socket we are inside connect(2), whose
			 * return will tell, or the owner gave up. */
			if (!error && switched(SWITCH_CONNECT_EXIT) && bpf_map_lookup_elem(&connecting, &thread)) {
				bpf_map_delete_elem(&connecting, &thread);
			} else {
				COUNT(owner.container, true, tcp_connect_failures, 1);
				send_tcp(sk, info, &owner, EVENT_TCP_CONNECT_FAILED, error, false);
			}
		}
		info->flags = 0;
		break;
	}
	}
	return 0;
}

/* A connect that fails before SYN_SENT (no route, no address) changes no
 * state; only the return of the system call shows it. */
SEC("tracepoint/syscalls/sys_exit_connect")
int on_connect_exit(struct syscall_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 thread = bpf_get_current_pid_tgid();
	struct owner owner;
	struct pt_regs *regs;
	struct file **files, *file = NULL;
	struct socket *socket;
	struct sock *sk;
	struct tcp_event *e;
	__u32 fd;
	struct {
		__u16 family;
		__u16 port;
		__u32 v4;
		__u8 v6[16];
	} addr = {};

	if (!owner_of_task(task, &owner))
		return 0;
	if (bpf_map_delete_elem(&connecting, &thread) == 0)
		return 0;
	switch (-ctx->ret) {
	case 1: /* EPERM */
	case 13: /* EACCES */
	case 99: /* EADDRNOTAVAIL */
	case 100: /* ENETDOWN */
	case 101: /* ENETUNREACH */
	case 111: /* ECONNREFUSED */
	case 113: /* EHOSTUNREACH */
		break;
	default:
		return 0;
	}
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	fd = SYSCALL_ARG1(regs);
	files = BPF_CORE_READ(task, files, fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), &files[fd]);
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (BPF_CORE_READ(sk, sk_protocol) != 6 /* TCP */)
		return 0;
	bpf_probe_read_user(&addr, 8, (void *)SYSCALL_ARG2(regs));
	if (addr.family == AF_INET6)
		bpf_probe_read_user(&addr, sizeof(addr), (void *)SYSCALL_ARG2(regs));
	else if (addr.family != AF_INET)
		return 0;
	COUNT(owner.container, true, tcp_connect_failures, 1);
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count_lost(EVENT_TCP_CONNECT_FAILED);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	fill_header(&e->head, EVENT_TCP_CONNECT_FAILED, &owner);
	fill_task(task, &e->head.task);
	e->ends.family = addr.family;
	e->ends.remote_port = bpf_ntohs(addr.port);
	if (addr.family == AF_INET)
		__builtin_memcpy(e->ends.remote, &addr.v4, 4);
	else
		__builtin_memcpy(e->ends.remote, addr.v6, 16);
	e->error = -ctx->ret;
	e->netns = e->head.task.ns.net;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Run once over every open file of the host, when everything else is attached: the sockets that were there
 * before. Those that listen are told; the rest get what their next event will need. */
SEC("iter/task_file")
int on_each_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket_info *info;
	struct socket *socket;
	struct owner owner;
	struct sock *sk;
	__u8 state;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !owner_of_sock(sk, &owner))
		return 0;
	state = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (state != AF_INET && state != AF_INET6)
		return 0;
	info = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!info) {
		count_lost(LOST_SOCKETS);
		return 0;
	}
	if (BPF_CORE_READ(sk, sk_protocol) != 6 /* TCP */) {
		/* It may have been made meanwhile, by whom on_socket knows. */
		if (!info->task.pid)
			fill_task(task, &info->task);
		return 0;
	}
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	switch (state) {
	case TCP_LISTEN:
		listens(sk, info, &owner, task, true);
		break;
	case TCP_ESTABLISHED:
	case TCP_FIN_WAIT1:
	case TCP_FIN_WAIT2:
	case TCP_CLOSE_WAIT:
		if (info->flags & SOCKET_ESTABLISHED)
			break;
		fill_task(task, &info->task);
		read_endpoints(sk, &info->ends);
		info->flags = SOCKET_ESTABLISHED;
		break;
	default:
		if (!info->task.pid)
			fill_task(task, &info->task);
	}
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(on_tcp_retransmit, struct sock *sk)
{
	struct owner owner;

	if (owner_of_sock(sk, &owner))
		COUNT(owner.container, false, tcp_retransmits, 1);
	return 0;
}

/* ---- packets ------------------------------------------------------------ */

/* Remembers who made the socket, for the softirqs that will not know. */
SEC("cgroup/sock_create")
int on_socket(struct bpf_sock *ctx)
{
	struct socket_info *info = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (info)
		fill_task((void *)bpf_get_current_task(), &info->task);
	else
		count_lost(LOST_SOCKETS);
	return 1;
}

struct dns_record {
	struct dns_event event;
	__u8 payload[DNS_LEN];
};

struct segment_record {
	struct dns_segment segment;
	__u8 payload[DNS_LEN];
};

/* Parts of DNS_LEN bytes that one packet is at most worth: what is longer is a transfer of zones. */
#define DNS_PARTS 16

/* As in the header's thirteenth byte. */
#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4

/* How many bytes of the `len` wanted, at most DNS_LEN, there are now. The range as a mask: an older verifier
 * loses its lower bound when two comparisons become one. */
static __always_inline __u32 load_payload(struct __sk_buff *skb, __u32 at, void *to, __u32 len)
{
	if (!len)
		return 0;
	len -= 1;
	opaque(len);
	len = (len & (DNS_LEN - 1)) + 1;
	return bpf_skb_load_bytes(skb, at, to, len) ? 0 : len;
}

static __always_inline void fill_packet_header(struct header *head, __u32 kind, struct __sk_buff *skb,
					       const struct flow_key *key, const struct socket_info *info,
					       __u64 now)
{
	head->kind = kind;
	head->unused = 0;
	head->time_ns = now;
	head->cgroup_id = key->cgroup_id;
	head->leaf_cgroup_id = bpf_skb_cgroup_id(skb);
	if (info)
		head->task = info->task;
	else
		__builtin_memset(&head->task, 0, sizeof(head->task));
}

static __always_inline void on_udp(struct __sk_buff *skb, bool out, struct flow_key *key, __u32 payload_at,
				   __u64 now)
{
	__u64 bytes = skb->len > payload_at ? skb->len - payload_at : 0;
	struct flow *flow = bpf_map_lookup_elem(&flows, key);
	struct bpf_sock *sk = skb->sk;
	struct socket_info *info = NULL;
	bool dns = key->ends.remote_port == 53;

	if (!flow || dns) {
		if (sk)
			sk = bpf_sk_fullsock(sk);
		if (sk)
			info = bpf_sk_storage_get(&sockets, sk, 0, 0);
	}
	if (!flow) {
		struct flow new = { .first_ns = now, .leaf_cgroup_id = bpf_skb_cgroup_id(skb) };

		if (info) {
			new.task = info->task;
			new.netns = info->task.ns.net;
		}
		bpf_map_update_elem(&flows, key, &new, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, key);
		if (flow) {
			struct wake_event wake = { .kind = EVENT_FLOW };

			bpf_ringbuf_output(&events, &wake, sizeof(wake), 0);
		}
	}
	if (!flow) {
		count_lost(LOST_FLOWS_FULL);
	} else {
		flow->last_ns = now;
		if (out) {
			__sync_fetch_and_add(&flow->tx_packets, 1);
			__sync_fetch_and_add(&flow->tx_bytes, bytes);
		} else {
			__sync_fetch_and_add(&flow->rx_packets, 1);
			__sync_fetch_and_add(&flow->rx_bytes, bytes);
		}
	}
	if (dns) {
		struct dns_record *r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);
		__u32 len = bytes > DNS_LEN ? DNS_LEN : bytes;

		if (!r) {
			count_lost(EVENT_DNS);
			return;
		}
		fill_packet_header(&r->event.head, EVENT_DNS, skb, key, info, now);
		r->event.netns = info ? info->task.ns.net : 0;
		r->event.ends = key->ends;
		r->event.outgoing = out;
		r->event.wire_len = bytes;
		r->event.len = load_payload(skb, payload_at, r->payload, len);
		r->event.stream = 0;
		r->event.unused = 0;
		bpf_ringbuf_submit(r, 0);
	}
}

/* A packet of a TCP stream from or to port 53, on its way into the ring in parts. */
struct segment_walk {
	struct __sk_buff *skb;
	struct flow_key *key;
	struct socket_info *info;
	__u64 now;
	__u32 at;
	__u32 left;
	__u32 seq;
	__u32 flags;
	__u32 out;
};

static long segment_step(__u32 i, struct segment_walk *w)
{
	__u32 len = w->left > DNS_LEN ? DNS_LEN : w->left;
	struct segment_record *r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);

	if (!r) {
		count_lost(EVENT_DNS_SEGMENT);
		return 1;
	}
	fill_packet_header(&r->segment.head, EVENT_DNS_SEGMENT, w->skb, w->key, w->info, w->now);
	r->segment.netns = w->info ? w->info->task.ns.net : 0;
	r->segment.ends = w->key->ends;
	r->segment.outgoing = w->out;
	r->segment.seq = w->seq;
	r->segment.len = load_payload(w->skb, w->at, r->payload, len);
	r->segment.unused = 0;
	w->left -= len;
	w->at += len;
	w->seq += len;
	/* The beginning is the first part's, the end the last one's. */
	r->segment.flags = (i ? 0 : w->flags & TCP_SYN) | (w->left ? 0 : w->flags & (TCP_FIN | TCP_RST));
	bpf_ringbuf_submit(r, 0);
	return w->left == 0;
}

static __always_inline void on_dns_stream(struct __sk_buff *skb, bool out, struct flow_key *key, __u32 tcp_at)
{
	struct segment_walk walk = { .skb = skb, .key = key, .out = out };
	struct bpf_sock *sk = skb->sk;
	__u8 tcp[14];

	if (bpf_skb_load_bytes(skb, tcp_at, tcp, sizeof(tcp)))
		return;
	walk.at = tcp_at + (tcp[12] >> 4) * 4;
	walk.left = skb->len > walk.at ? skb->len - walk.at : 0;
	walk.flags = tcp[13] & (TCP_FIN | TCP_SYN | TCP_RST);
	if (!walk.left && !walk.flags)
		return;
	if (walk.left > DNS_PARTS * DNS_LEN)
		walk.left = DNS_PARTS * DNS_LEN;
	key->ends.local_port = out ? tcp[0] << 8 | tcp[1] : tcp[2] << 8 | tcp[3];
	key->ends.remote_port = 53;
	walk.seq = (__u32)tcp[4] << 24 | tcp[5] << 16 | tcp[6] << 8 | tcp[7];
	/* The SYN takes a number of its own. */
	if (walk.flags & TCP_SYN)
		walk.seq++;
	walk.now = bpf_ktime_get_boot_ns();
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk)
		walk.info = bpf_sk_storage_get(&sockets, sk, 0, 0);
	bpf_loop(DNS_PARTS, segment_step, &walk, 0);
}

static __always_inline int on_packet(struct __sk_buff *skb, bool out)
{
	__u64 id = bpf_skb_ancestor_cgroup_id(skb, parent_level + 1);
	struct counters *c;
	struct flow_key key = {};
	__u8 *linear = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct bpf_sock *sk = skb->sk;
	bool dns = sk && sk->dst_port == bpf_htons(53);
	__u8 ip[40], protocol;
	__u16 ports[2];
	__u32 transport_at;

	if (!id)
		return 1;
	c = counters_of(id, false);
	if (c) {
		__sync_fetch_and_add(out ? &c->tx_packets : &c->rx_packets, 1);
		__sync_fetch_and_add(out ? &c->tx_bytes : &c->rx_bytes, skb->len);
	}
	/* Most packets are TCP that is no DNS, and their first bytes are at hand. */
	if (!dns && skb->protocol == bpf_htons(0x0800) && linear + 20 <= end && linear[9] == 6)
		return 1;
	if (!dns && skb->protocol == bpf_htons(0x86dd) && linear + 40 <= end && linear[6] == 6)
		return 1;
	key.cgroup_id = id;
	if (skb->protocol == bpf_htons(0x0800)) {
		if (bpf_skb_load_bytes(skb, 0, ip, 20))
			return 1;
		protocol = ip[9];
		/* Only the first fragment has ports. */
		if ((ip[6] & 0x1f) || ip[7])
			return 1;
		transport_at = (ip[0] & 15) * 4;
		key.ends.family = AF_INET;
		__builtin_memcpy(out ? key.ends.local : key.ends.remote, ip + 12, 4);
		__builtin_memcpy(out ? key.ends.remote : key.ends.local, ip + 16, 4);
	} else if (skb->protocol == bpf_htons(0x86dd)) {
		if (bpf_skb_load_bytes(skb, 0, ip, 40))
			return 1;
		protocol = ip[6];
		transport_at = 40;
		key.ends.family = AF_INET6;
		__builtin_memcpy(out ? key.ends.local : key.ends.remote, ip + 8, 16);
		__builtin_memcpy(out ? key.ends.remote : key.ends.local, ip + 24, 16);
	} else {
		return 1;
	}
	if (protocol == 6) {
		if (dns)
			on_dns_stream(skb, out, &key, transport_at);
		return 1;
	}
	if (protocol != 17 || bpf_skb_load_bytes(skb, transport_at, ports, 4))
		return 1;
	key.ends.local_port = bpf_ntohs(ports[out ? 0 : 1]);
	key.ends.remote_port = bpf_ntohs(ports[out ? 1 : 0]);
	if (c && key.ends.remote_port == 53)
		__sync_fetch_and_add(out ? &c->dns_queries : &c->dns_answers, 1);
	key.generation = switched(SWITCH_GENERATION);
	on_udp(skb, out, &key, transport_at + 8, bpf_ktime_get_boot_ns());
	return 1;
}

SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	return on_packet(skb, true);
}

SEC("cgroup_skb/ingress")
int on_ingress(struct __sk_buff *skb)
{
	return on_packet(skb, false);
}

/* ---- latencies ---------------------------------------------------------- */

/* The number of bits of the microseconds. */
static __always_inline __u32 slot_of(__u64 ns)
{
	__u64 us = ns / 1000;
	__u32 slot = 1;

	if (!us)
		return 0;
	if (us >> (HIST_SLOTS - 1))
		return HIST_SLOTS - 1;
	if (us >> 16) {
		us >>= 16;
		slot += 16;
	}
	if (us >> 8) {
		us >>= 8;
		slot += 8;
	}
	if (us >> 4) {
		us >>= 4;
		slot += 4;
	}
	if (us >> 2) {
		us >>= 2;
		slot += 2;
	}
	return slot + (us >> 1);
}

static __always_inline void observe(void *map, __u64 id, __u64 ns)
{
	struct histogram *h = bpf_map_lookup_elem(map, &id);
	__u32 slot = slot_of(ns);

	if (!h) {
		/* A request may outlive its container. */
		if (!counters_of(id, false))
			return;
		bpf_map_update_elem(map, &id, &no_histogram, BPF_NOEXIST);
		h = bpf_map_lookup_elem(map, &id);
		if (!h) {
			count_lost(LOST_COUNTERS_FULL);
			return;
		}
	}
	if (slot < HIST_SLOTS) {
		__sync_fetch_and_add(&h->slots[slot], 1);
		__sync_fetch_and_add(&h->sum_ns, ns);
	}
}

static __always_inline void start_waiting(struct task_struct *task)
{
	struct waiting *w = bpf_task_storage_get(&runnable, task, 0, 0);
	struct owner owner;

	if (!w || !owner_of_known(task, &owner))
		return;
	w->cgroup_id = owner.container;
	w->since_ns = bpf_ktime_get_ns();
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	start_waiting(task);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *task)
{
	start_waiting(task);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct waiting *w;

	if (prev->__state == 0)
		start_waiting(prev);
	w = bpf_task_storage_get(&runnable, next, 0, 0);
	if (w && w->since_ns) {
		observe(&run_queue, w->cgroup_id, bpf_ktime_get_ns() - w->since_ns);
		w->since_ns = 0;
	}
	return 0;
}

static __always_inline void may_wait(struct task_struct *task)
{
	struct waiting *w;
	struct owner owner;

	if (!owner_of_known(task, &owner))
		return;
	w = bpf_task_storage_get(&runnable, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (w)
		w->since_ns = 0; /* it may be from before these programs were detached */
	else
		count_lost(LOST_QUEUE_FULL);
}

/* Born in a container; */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork_waits, struct task_struct *parent, struct task_struct *child)
{
	may_wait(child);
	return 0;
}

/* moved into one before it executed something; */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec_waits, struct task_struct *task)
{
	may_wait(task);
	return 0;
}

/* or there before us. */
SEC("iter/task")
int on_each_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task)
		may_wait(task);
	return 0;
}

/* With the io controller on v1 a request's cgroup is of another hierarchy; then it belongs to whoever is at
 * work. */
static __always_inline void note_request(struct request *rq, __u64 since_ns)
{
	struct cgroup *cgrp = BPF_CORE_READ(rq, bio, bi_blkg, blkcg, css.cgroup);
	struct request_of r = {};
	struct owner owner;
	__u64 key = (__u64)rq;

	r.made_ns = BPF_CORE_READ(rq, start_time_ns);
	r.since_ns = since_ns;
	if ((cgrp && in_v2(cgrp) && owner_of_cgroup(cgrp, &owner)) ||
	    owner_of_task((void *)bpf_get_current_task(), &owner))
		r.cgroup_id = owner.container;
	if (bpf_map_update_elem(&requests, &key, &r, BPF_ANY) && r.cgroup_id)
		count_lost(LOST_QUEUE_FULL);
}

/* A process queues its own requests. Which of them a busy device is given next is seen to by whoever comes by, and
 * that may be anyone: so others' are noted as well. */
SEC("tp_btf/block_rq_insert")
int BPF_PROG(on_block_insert, struct request *rq)
{
	note_request(rq, 0);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(on_block_issue, struct request *rq)
{
	__u64 key = (__u64)rq, now = bpf_ktime_get_ns();
	struct request_of *r = bpf_map_lookup_elem(&requests, &key);

	if (r && r->made_ns == BPF_CORE_READ(rq, start_time_ns))
		r->since_ns = now;
	else
		note_request(rq, now);
	return 0;
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_block_complete, struct request *rq, int error, unsigned int bytes)
{
	__u64 key = (__u64)rq;
	struct request_of *r = bpf_map_lookup_elem(&requests, &key);
	struct counters *c;

	if (!r)
		return 0;
	/* What has ended without a device has had no latency. */
	if (r->cgroup_id && r->since_ns && r->made_ns == BPF_CORE_READ(rq, start_time_ns)) {
		observe(&block_io, r->cgroup_id, bpf_ktime_get_ns() - r->since_ns);
		c = counters_of(r->cgroup_id, false);
		if (c) {
			bool read = (BPF_CORE_READ(rq, cmd_flags) & 0xff) == 0;

			__sync_fetch_and_add(read ? &c->io_reads : &c->io_writes, 1);
			__sync_fetch_and_add(read ? &c->io_read_bytes : &c->io_write_bytes, bytes);
		}
	}
	bpf_map_delete_elem(&requests, &key);
	return 0;
}
