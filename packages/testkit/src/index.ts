export * from './host.ts';
export { BUSYBOX_IMAGE, prepareCluster, startCluster, type Cluster, type ClusterOptions, type ClusterScope } from './kubernetes/cluster.ts';
export * from './nats-cluster.ts';
export * from './nats-roles.ts';
export * from './nats-server.ts';
export * from './network.ts';
export * from './wait.ts';
export * from './vm.ts';
