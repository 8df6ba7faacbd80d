/* The cgroup iterator as a reader: what `cpu.stat` and the three pressure files say, as numbers.
 *
 * CPU time is flushed first, as the kernel does for whoever opens cpu.stat. For pressure there is no such
 * call: the sums are as old as the kernel's own last averaging, up to two seconds.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct task_cputime {
	__u64 stime, utime;
	unsigned long long sum_exec_runtime;
};
struct cgroup_base_stat {
	struct task_cputime cputime;
};
struct kernfs_node {
	__u64 id;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
};
struct psi_group {
	__u64 total[12]; /* two kinds of six; BTF knows no array of arrays */
};
struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_base_stat bstat;
	struct psi_group *psi;
};
struct bpf_iter__cgroup {
	struct bpf_iter_meta *meta;
	struct cgroup *cgroup;
};
#pragma clang attribute pop

struct row {
	__u64 id, usage, user, system, pressure[6];
};

/* Renamed on the way from 6.1 to 6.18. */
extern void css_rstat_flush(struct cgroup_subsys_state *css) __weak __ksym;
extern void cgroup_rstat_flush(struct cgroup *cgrp) __weak __ksym;

SEC("iter.s/cgroup")
int walk(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgroup = ctx->cgroup;
	struct row row = {};

	if (!cgroup)
		return 0;
	if (css_rstat_flush)
		css_rstat_flush(&cgroup->self);
	else if (cgroup_rstat_flush)
		cgroup_rstat_flush(cgroup);
	row.id = cgroup->kn->id;
	row.usage = cgroup->bstat.cputime.sum_exec_runtime;
	row.user = cgroup->bstat.cputime.utime;
	row.system = cgroup->bstat.cputime.stime;
	struct psi_group *psi = cgroup->psi;
	if (psi)
		bpf_probe_read_kernel(row.pressure, sizeof row.pressure, &psi->total[0]);
	bpf_seq_write(ctx->meta->seq, &row, sizeof row);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
