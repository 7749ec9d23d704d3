{{- /* Names start with the release's, unless that says tidegate already. */}}
{{- define "tidegate.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- /* What never changes, for selectors. Argument: dict root, component. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: tidegate
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "tidegate.metadata" -}}
name: {{ include "tidegate.fullname" .root }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tidegate.labels" . | nindent 2 }}
{{- end }}

{{- define "tidegate.image" -}}
{{ .root.Values.images.registry }}/{{ .component }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "tidegate.natsUrl" -}}
{{- if .Values.nats.url }}{{ .Values.nats.url }}
{{- else if .Values.nats.clusterIP }}nats://{{ .Values.nats.clusterIP }}:4222
{{- else }}nats://{{ include "tidegate.fullname" . }}-nats.{{ .Release.Namespace }}.svc:4222
{{- end }}
{{- end }}

{{- define "tidegate.natsSecret" -}}
{{ .Values.nats.existingSecret | default (printf "%s-nats-users" (include "tidegate.fullname" .)) }}
{{- end }}

{{- /* Argument: dict root, user. */}}
{{- define "tidegate.natsEnv" -}}
- name: TIDEGATE_NATS_URL
  value: {{ include "tidegate.natsUrl" .root | quote }}
- name: TIDEGATE_NATS_USER
  value: {{ .user }}
- name: TIDEGATE_NATS_PASSWORD
  valueFrom:
    secretKeyRef: { name: {{ include "tidegate.natsSecret" .root }}, key: {{ .user }} }
- name: TIDEGATE_LOG_LEVEL
  value: {{ .root.Values.logLevel }}
{{- end }}

{{- /* The kubelet asks from outside the pod's loopback. */}}
{{- define "tidegate.healthEnv" -}}
- name: TIDEGATE_HEALTH_HOST
  value: 0.0.0.0
- name: TIDEGATE_HEALTH_PORT
  value: '8080'
{{- end }}

{{- define "tidegate.healthProbes" -}}
startupProbe:
  httpGet: { path: /healthz, port: health }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /healthz, port: health }
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: { path: /readyz, port: health }
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- /* As Pod Security's profile `restricted` asks. */}}
{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* What pods of all components have in common. Argument: dict root, component. Service links would set variables such as TIDEGATE_API_PORT, which are our settings' names. */}}
{{- define "tidegate.podSpec" -}}
{{- $values := get .root.Values .component -}}
serviceAccountName: {{ include "tidegate.fullname" .root }}-{{ .component }}
automountServiceAccountToken: {{ eq .component "gateway" }}
enableServiceLinks: false
{{- include "tidegate.pullSecrets" .root }}
nodeSelector:
  {{- merge (dict "kubernetes.io/os" "linux") $values.nodeSelector | toYaml | nindent 2 }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tidegate.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Argument: the weight, by which Helm makes one after the other. */}}
{{- define "tidegate.cleanUpHook" -}}
helm.sh/hook: post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{- /* Replicas on different nodes where there are several. */}}
{{- define "tidegate.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tidegate.selector" . | nindent 8 }}
{{- end }}

{{- define "tidegate.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "tidegate.metadata" . | nindent 2 }}
automountServiceAccountToken: false
{{- end }}

{{- /* One replica at a time may be moved. With a single one a budget would only block draining its node. */}}
{{- define "tidegate.disruptionBudget" -}}
{{- if gt (int (get .root.Values .component).replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "tidegate.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "tidegate.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- /* Argument: the path to ask for. */}}
{{- define "tidegate.apiProbe" -}}
exec:
  command:
    - /opt/tidegate/bin/node
    - --eval
    - "fetch('http://127.0.0.1:7400/{{ . }}').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"
{{- end }}
