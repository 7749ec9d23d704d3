// SPDX-License-Identifier: Apache-2.0
// paced_execs <uid> <execs/s> <seconds>: runs /bin/true as that user at a steady rate, then prints the CPU time that took, itself included, in
// nanoseconds, and how many it ran.
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long cpu_ns(int who)
{
	struct rusage usage;

	getrusage(who, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000LL + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000LL;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	const long uid = atol(argv[1]), rate = atol(argv[2]), count = rate * atol(argv[3]);
	struct timespec due;

	if (setgid(uid) || setuid(uid)) {
		perror("setuid");
		return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (long i = 0; i < count; i++) {
		char *arguments[] = {"/bin/true", NULL};
		pid_t child;

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
			;
		if (posix_spawn(&child, arguments[0], NULL, NULL, arguments, NULL)) {
			perror("posix_spawn");
			return 1;
		}
		waitpid(child, NULL, 0);
		due.tv_nsec += 1000000000L / rate;
		if (due.tv_nsec >= 1000000000L) {
			due.tv_sec++;
			due.tv_nsec -= 1000000000L;
		}
	}
	printf("%lld %ld\n", cpu_ns(RUSAGE_SELF) + cpu_ns(RUSAGE_CHILDREN), count);
	return 0;
}
