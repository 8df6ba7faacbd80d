/* walk OBJECT CGROUP ROUNDS: reads all descendants of a cgroup by the iterator, again and again.
 * Prints how many rows a walk gave, and then one line of nanoseconds for each walk. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROW (10 * 8)

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int fail(const char *call)
{
	fprintf(stderr, "%s: %s\n", call, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	static char buffer[1 << 20];

	if (argc != 4)
		return 2;
	struct bpf_object *object = bpf_object__open(argv[1]);
	if (!object || bpf_object__load(object))
		return fail("load");
	struct bpf_program *program = bpf_object__find_program_by_name(object, "walk");
	int cgroup = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		return fail(argv[2]);
	union bpf_iter_link_info info = {};
	info.cgroup.cgroup_fd = cgroup;
	info.cgroup.order = BPF_CGROUP_ITER_DESCENDANTS_PRE;
	DECLARE_LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &info, .link_info_len = sizeof info);
	struct bpf_link *link = bpf_program__attach_iter(program, &options);
	if (!link)
		return fail("attach");
	int rounds = atoi(argv[3]);
	for (int round = -3; round < rounds; round++) {
		long long began = now();
		int fd = bpf_iter_create(bpf_link__fd(link));
		if (fd < 0)
			return fail("bpf_iter_create");
		long long bytes = 0;
		ssize_t count;
		while ((count = read(fd, buffer, sizeof buffer)) > 0)
			bytes += count;
		if (count < 0)
			return fail("read");
		close(fd);
		long long took = now() - began;
		if (round == -3)
			printf("%lld\n", bytes / ROW);
		if (round >= 0)
			printf("%lld\n", took);
		usleep(200000);
	}
	return 0;
}
