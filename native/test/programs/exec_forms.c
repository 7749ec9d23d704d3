// SPDX-License-Identifier: Apache-2.0
// Unusual ways to call execve; for tests. exec_forms <form> <argument>
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

static char *marker;

static void *exec_true(void *unused)
{
	execl("/bin/true", "true", marker, NULL);
	return unused;
}

static void *idle(void *unused)
{
	pause();
	return unused;
}

static void copy_to(int fd, const char *path)
{
	char buffer[65536];
	ssize_t size;
	int source = open(path, O_RDONLY);

	while ((size = read(source, buffer, sizeof(buffer))) > 0)
		if (write(fd, buffer, size) != size)
			exit(1);
	close(source);
}

int main(int argc, char **argv)
{
	const char *form = argc > 1 ? argv[1] : "";
	pthread_t thread;

	if (argc > 2)
		marker = argv[2];
	if (!strcmp(form, "thread")) { // a thread that is not the leader calls execve, while others run
		pthread_create(&thread, NULL, idle, NULL);
		pthread_create(&thread, NULL, exec_true, NULL);
		pause();
	} else if (!strcmp(form, "leader")) { // the leader does, while others run
		pthread_create(&thread, NULL, idle, NULL);
		exec_true(NULL);
	} else if (!strcmp(form, "no-arguments")) {
		execve(marker, (char *[]){ NULL }, (char *[]){ NULL });
	} else if (!strcmp(form, "memfd")) {
		int fd = memfd_create("tidegate-test", MFD_CLOEXEC);

		copy_to(fd, "/bin/true");
		fexecve(fd, (char *[]){ "true", marker, NULL }, (char *[]){ NULL });
	} else if (!strcmp(form, "fork")) { // a child that never calls execve
		pid_t child = fork();

		if (child == 0)
			_exit(7);
		waitpid(child, NULL, 0);
		return 0;
	} else if (!strcmp(form, "signal")) {
		raise(9);
	} else if (!strcmp(form, "threads-exit")) { // both threads end at once, neither with exit_group
		pthread_create(&thread, NULL, idle, NULL);
		pthread_cancel(thread);
		pthread_exit(NULL);
	}
	return form[0] == 0 ? 0 : 1;
}
