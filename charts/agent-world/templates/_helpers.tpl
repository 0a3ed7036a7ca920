{{- define "agent-world.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "agent-world.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains (include "agent-world.name" .) .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "agent-world.name" .) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Immutable in a Deployment: never add to these. */}}
{{- define "agent-world.selectorLabels" -}}
app.kubernetes.io/name: {{ include "agent-world.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Without versions, so that a new chart with the same operator does not restart it. */}}
{{- define "agent-world.podLabels" -}}
{{ include "agent-world.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: agent-world
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "agent-world.labels" -}}
{{ include "agent-world.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "agent-world.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "agent-world.fullname" .) }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* [registry/]repository then @digest or :tag. Takes (dict "image" ... "root" $). */}}
{{- define "agent-world.image" -}}
{{- with .image.registry | default .root.Values.global.imageRegistry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* What every container of this chart is allowed: nothing but to run. */}}
{{- define "agent-world.containerSecurityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "agent-world.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What a pod of this chart needs to speak to the API server: its own token, mounted nowhere else. */}}
{{- define "agent-world.tokenVolume" -}}
- name: api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.operator.tmpSizeLimit }}
{{- end }}

{{- define "agent-world.volumeMounts" -}}
- name: api-access
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end }}

{{/* Environment of the operator and of its check. HOME and LOGNAME: the user id has no entry in passwd. */}}
{{- define "agent-world.env" -}}
- name: HOME
  value: /tmp
- name: LOGNAME
  value: agentworld
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: NODE_IMAGE
  value: {{ include "agent-world.image" (dict "image" .Values.node.image "root" .) | quote }}
- name: NODE_IMAGE_PULL_POLICY
  value: {{ .Values.node.image.pullPolicy }}
- name: LOG_LEVEL
  value: {{ .Values.operator.logLevel }}
{{- with .Values.operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The operator's rights in a namespace that it looks after. Each line is a call that the operator makes, or a right
     that it hands to the nodes of a world (leases). */}}
{{- define "agent-world.rules" -}}
- apiGroups: [agentworld.dev]
  resources: [worlds]
  verbs: [get, list, watch, patch]
- apiGroups: [agentworld.dev]
  resources: [validators, membershipkeys]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [agentworld.dev]
  resources: [worlds/status, validators/status, membershipkeys/status]
  verbs: [get, patch]
- apiGroups: [agentworld.dev]
  resources: [worlds/finalizers, validators/finalizers, membershipkeys/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods, persistentvolumeclaims, services, configmaps, secrets, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update, patch, delete]
{{- end }}
